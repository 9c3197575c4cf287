//! The service on the wire: each call to its verb, each error to its status.

use key_server_proto::v1;
use key_server_proto::v1::key_server_server::KeyServer;
use tonic::{Request, Response, Status};

use crate::service::Service;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl KeyServer for Service {
    async fn select_keys_for_session(
        &self,
        request: Request<v1::SelectKeysRequest>,
    ) -> Answer<v1::SelectKeysResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(self.select_keys(caller, request.into_inner()).await?))
    }

    async fn track_usage(
        &self,
        request: Request<v1::TrackUsageRequest>,
    ) -> Answer<v1::TrackUsageResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(Service::track_usage(self, caller, request.into_inner()).await?))
    }

    async fn get_stats(
        &self,
        request: Request<v1::GetStatsRequest>,
    ) -> Answer<v1::GetStatsResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(Service::get_stats(self, &caller, request.get_ref())?))
    }

    async fn reload_keys(
        &self,
        request: Request<v1::ReloadKeysRequest>,
    ) -> Answer<v1::ReloadKeysResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(Service::reload_keys(self, caller, request.into_inner()).await?))
    }

    async fn release_key(
        &self,
        request: Request<v1::ReleaseKeyRequest>,
    ) -> Answer<v1::ReleaseKeyResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(Service::release_key(self, caller, request.into_inner()).await?))
    }

    async fn health(&self, request: Request<v1::HealthRequest>) -> Answer<v1::HealthResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(Service::health(self, &caller)))
    }
}
