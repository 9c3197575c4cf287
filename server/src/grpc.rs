//! The service on the wire: each call to its verb, each error to its status,
//! each refusal to the ledger.

use std::sync::Arc;

use key_server_ledger::Caller;
use key_server_proto::v1;
use key_server_proto::v1::key_server_server::KeyServer;
use tonic::{Request, Response, Status};

use crate::audit::About;
use crate::error::ServiceError;
use crate::gate::Pass;
use crate::guard::Peer;
use crate::service::Service;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl KeyServer for Service {
    async fn select_keys_for_session(
        &self,
        request: Request<v1::SelectKeysRequest>,
    ) -> Answer<v1::SelectKeysResponse> {
        let about = About::select(request.get_ref());
        let caller = self.caller(&request, &about)?;
        let answer = self.select_keys(&caller, pass(&request), request.get_ref()).await;
        match &answer {
            // What changed something has its own lines.
            Ok(response) if response.success => {}
            Ok(response) => self.tell_shortage(&caller, about, response),
            Err(error) => self.audit.tell(Some(&caller), &about, Some(error.reason)),
        }
        Ok(Response::new(answer?))
    }

    async fn track_usage(
        &self,
        request: Request<v1::TrackUsageRequest>,
    ) -> Answer<v1::TrackUsageResponse> {
        let about = About::usage(request.get_ref());
        let caller = self.caller(&request, &about)?;
        let answer = Service::track_usage(self, &caller, request.get_ref()).await;
        self.told(&caller, &about, answer)
    }

    async fn get_stats(
        &self,
        request: Request<v1::GetStatsRequest>,
    ) -> Answer<v1::GetStatsResponse> {
        let about = About::stats(request.get_ref());
        let caller = self.caller(&request, &about)?;
        let answer = Service::get_stats(self, &caller, pass(&request), request.get_ref());
        if answer.is_ok() {
            self.audit.tell(Some(&caller), &about, None);
        }
        self.told(&caller, &about, answer)
    }

    async fn reload_keys(
        &self,
        request: Request<v1::ReloadKeysRequest>,
    ) -> Answer<v1::ReloadKeysResponse> {
        let about = About::reload();
        let caller = self.caller(&request, &about)?;
        let answer = Service::reload_keys(self, &caller, request.get_ref()).await;
        if let Ok(response) = &answer {
            let reason = (!response.success).then_some("RELOAD_REFUSED");
            self.audit.tell(Some(&caller), &about, reason);
        }
        self.told(&caller, &about, answer)
    }

    async fn release_key(
        &self,
        request: Request<v1::ReleaseKeyRequest>,
    ) -> Answer<v1::ReleaseKeyResponse> {
        let about = About::release(request.get_ref());
        let caller = self.caller(&request, &about)?;
        let answer = Service::release_key(self, &caller, request.get_ref()).await;
        self.told(&caller, &about, answer)
    }

    async fn health(&self, request: Request<v1::HealthRequest>) -> Answer<v1::HealthResponse> {
        let caller = self.guard.caller(request.extensions())?;
        Ok(Response::new(Service::health(self, &caller)))
    }
}

/// The places of a call; none when it did not come through the gate.
fn pass<T>(request: &Request<T>) -> Option<&Pass> {
    request.extensions().get::<Arc<Pass>>().map(Arc::as_ref)
}

impl Service {
    fn caller<T>(&self, request: &Request<T>, about: &About<'_>) -> Result<Peer, ServiceError> {
        let caller = self.guard.caller(request.extensions());
        caller.inspect_err(|error| self.audit.tell(None, about, Some(error.reason)))
    }

    /// The answer on the wire; a refusal is recorded.
    fn told<T>(
        &self,
        caller: &Arc<Caller>,
        about: &About<'_>,
        answer: Result<T, ServiceError>,
    ) -> Answer<T> {
        let answer =
            answer.inspect_err(|error| self.audit.tell(Some(caller), about, Some(error.reason)));
        Ok(Response::new(answer?))
    }

    /// Records that no key could be given: an answer, and a refusal all the
    /// same.
    fn tell_shortage(
        &self,
        caller: &Arc<Caller>,
        about: About<'_>,
        response: &v1::SelectKeysResponse,
    ) {
        let Some(shortage) = response.shortages.first() else { return };
        let reason = shortage.reason().as_str_name();
        let reason = reason.strip_prefix("SHORTAGE_REASON_").unwrap_or(reason);
        self.audit.tell(Some(caller), &about.model(&shortage.model), Some(reason));
    }
}
