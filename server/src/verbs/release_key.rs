use key_server_core::{Release, ReleaseRefusal, ReleaseScope};
use key_server_proto::v1;

use super::wire;
use crate::error::ServiceError;
use crate::guard::Peer;
use crate::policy::Verb;
use crate::service::Service;

impl Service {
    pub(crate) async fn release_key(
        &self,
        caller: &Peer,
        request: &v1::ReleaseKeyRequest,
    ) -> Result<v1::ReleaseKeyResponse, ServiceError> {
        self.guard.allow(caller, Verb::Release)?;
        let (id, owner) = (&request.session_id, request.owner_uid);
        let session = self.guard.session(caller, id, owner, Verb::ReleaseAll)?;
        let command = Release { session: session.clone(), scope: self.scope(request)? };
        match self.engine.submit(Some(caller), Some(&session), &command).await? {
            Ok(released) => Ok(v1::ReleaseKeyResponse {
                success: true,
                released: wire::small_count(released.allocations_count),
            }),
            Err(ReleaseRefusal::UnknownSession) => Err(ServiceError::session_not_found()),
        }
    }

    fn scope(&self, request: &v1::ReleaseKeyRequest) -> Result<ReleaseScope, ServiceError> {
        match (request.key_id.as_str(), request.model.as_str()) {
            ("", "") => Ok(ReleaseScope::Session),
            (key_id, "") => Ok(ReleaseScope::Key(self.guard.key_id(key_id)?)),
            ("", model) => Ok(ReleaseScope::Model(self.guard.model("model", model)?)),
            (_, _) => {
                let message = "key_id and model are both given; give one, or none for all keys";
                Err(ServiceError::invalid("model", message))
            }
        }
    }
}
