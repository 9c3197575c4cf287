//! What answers behind the door: the keys' own service, and those that tell
//! about it. A call passes what holds for all calls, then the gate, then its
//! service.

use std::convert::Infallible;
use std::sync::Arc;

use key_server_proto::v1::key_server_server::{KeyServerServer, SERVICE_NAME};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service as _};
use tonic::service::Routes;

use crate::audit::{About, Audit};
use crate::gate::{Gate, Pass};
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

/// An answer to come, in a block of its own: nested futures would each keep
/// room for the request, and allocators are slow with blocks of some KiB.
type Answer = BoxFuture<Response<Body>, Infallible>;

impl Services {
    /// The answer to a call, whatever becomes of it: a panic costs this call
    /// only. With it the call's places, to be kept until the answer is sent.
    pub(crate) fn answer(&self, request: Request<Body>) -> (Answer, Option<Arc<Pass>>) {
        let uri = request.uri().clone();
        let panics = Arc::clone(&self.panics);
        let (answer, pass) = self.behind_gate(request);
        let answer = async move {
            match panics.caught(|| format!("a call to {:?}", uri.path()), answer).await {
                Ok(Ok(response)) => Ok(without_traces(uri.path(), response)),
                Err(error) => Ok(Status::from(error).into_http()),
            }
        };
        (Box::pin(answer), pass)
    }

    fn behind_gate(&self, mut request: Request<Body>) -> (Answer, Option<Arc<Pass>>) {
        // Whoever the kernel does not name is refused by the services.
        let Some(peer) = request.extensions().get::<Peer>() else {
            return (self.of(request), None);
        };
        let uid = peer.caller.uid;
        match self.gate.enter(uid) {
            Ok(pass) => {
                let pass = Arc::new(pass);
                request.extensions_mut().insert(Arc::clone(&pass));
                (self.of(request), Some(pass))
            }
            Err(refusal) => {
                if let Some(about) = About::of_path(request.uri().path()) {
                    self.audit.tell(Some(&peer.caller), &about, Some(refusal.reason));
                }
                let gate = Arc::clone(&self.gate);
                let answer = async move {
                    gate.pause(uid).await;
                    Ok(Status::from(refusal).into_http())
                };
                (Box::pin(answer), None)
            }
        }
    }

    /// The answer of the service that the path names.
    fn of(&self, request: Request<Body>) -> Answer {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match service {
            // Past the router, which costs a call more than the core does.
            Some((SERVICE_NAME, _)) => self.keys.clone().call(request),
            _ => Box::pin(self.others.clone().call(request)),
        }
    }
}
