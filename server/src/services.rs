//! What answers behind the door: the keys' own service, and those that tell
//! about it. A call passes here as one future: what holds for all calls, then
//! the gate, then its service.

use std::convert::Infallible;
use std::sync::Arc;

use key_server_proto::v1::key_server_server::{KeyServerServer, SERVICE_NAME};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;

use crate::audit::{About, Audit};
use crate::gate::Gate;
use crate::guard::Peer;
use crate::panics::Panics;
use crate::service::Service;
use crate::traces::without_traces;

/// All services, shared by all connections.
pub(crate) struct Services {
    pub(crate) keys: KeyServerServer<Service>,
    /// Health and reflection, which nobody calls often.
    pub(crate) others: Routes,
    pub(crate) gate: Arc<Gate>,
    /// Who is refused at the gate is told to it too.
    pub(crate) audit: Arc<Audit>,
    pub(crate) panics: Arc<Panics>,
}

impl Services {
    /// The answer to a call, whatever becomes of it: a panic costs this call
    /// only.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let uri = request.uri().clone();
        let what = || format!("a call to {:?}", uri.path());
        match self.panics.caught(what, self.behind_gate(request)).await {
            Ok(response) => without_traces(uri.path(), response),
            Err(error) => Status::from(error).into_http(),
        }
    }

    async fn behind_gate(&self, request: Request<Body>) -> Response<Body> {
        // Whoever the kernel does not name is refused by the services.
        let Some(peer) = request.extensions().get::<Peer>() else {
            return self.of(request).await;
        };
        let uid = peer.caller.uid;
        match self.gate.enter(uid) {
            Ok(_pass) => self.of(request).await,
            Err(refusal) => {
                if let Some(about) = About::of_path(request.uri().path()) {
                    self.audit.tell(Some(&peer.caller), &about, Some(refusal.reason));
                }
                drop(request);
                self.gate.pause(uid).await;
                Status::from(refusal).into_http()
            }
        }
    }

    /// The answer of the service that the path names.
    async fn of(&self, request: Request<Body>) -> Response<Body> {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let answer: Result<_, Infallible> = match service {
            // Past the router, which costs a call more than the core does.
            Some((SERVICE_NAME, _)) => self.keys.clone().call(request).await,
            _ => self.others.clone().call(request).await,
        };
        let Ok(response) = answer;
        response
    }
}
