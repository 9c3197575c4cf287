//! Each request message, from the wire through validation to the rules.

use std::cell::RefCell;
use std::thread_local;

use bytes::{Buf, BufMut};
use key_server_testkit::client::channel;
use key_server_testkit::server::{Embedded, EmbeddedHome};
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::bear_broken_pipes;

const CSV: &str = "\
provider,model,api_key,max_holders
OpenAI,gpt-4o,sk-fake-fuzz-1,
OpenAI,gpt-4o,sk-fake-fuzz-2,
XAI,grok-3-beta,sk-fake-fuzz-3,1
";
const VERBS: [&str; 6] =
    ["SelectKeysForSession", "TrackUsage", "ReleaseKey", "GetStats", "ReloadKeys", "Health"];
/// A server that has answered so often is replaced: sessions pile up.
const CALLS_MAX: u32 = 20_000;

struct Place {
    /// Goes first, and both ends of the connection with it.
    runtime: Runtime,
    server: Option<(EmbeddedHome, Embedded, Grpc<Channel>)>,
    calls: u32,
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new(Place::new());
}

/// The first byte names the verb, the rest is its message, as bytes on a real
/// connection to a real server: answered, or refused with a reason; never
/// `INTERNAL`, but for bytes that are no message.
pub fn run(bytes: &[u8]) {
    let Some((verb, message)) = bytes.split_first() else { return };
    let verb = VERBS[usize::from(*verb) % VERBS.len()];
    PLACE.with_borrow_mut(|place| match place.call(verb, message) {
        Ok(_) => {}
        Err(status) => {
            let text = status.message();
            assert!(!text.is_empty() && !text.contains("-fake-"), "{status:?}");
            let is_no_message = text.starts_with("failed to decode Protobuf message");
            let is_refusal = !matches!(status.code(), Code::Internal | Code::Unknown);
            assert!(is_refusal || is_no_message, "{verb}: {status:?}");
        }
    });
}

impl Place {
    fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        bear_broken_pipes(&runtime);
        Self { runtime, server: None, calls: 0 }
    }

    fn call(&mut self, verb: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
        self.calls += 1;
        if self.calls > CALLS_MAX {
            *self = Self::new();
        }
        let (_, _, client) = self.server.get_or_insert_with(|| self.runtime.block_on(start()));
        let path = format!("/keyserver.v1.KeyServer/{verb}");
        let path = PathAndQuery::try_from(path).expect("it is a path");
        let request = Request::new(message.to_vec());
        self.runtime.block_on(async {
            client.ready().await.expect("the server is there");
            client.unary(request, path, Raw).await.map(tonic::Response::into_inner)
        })
    }
}

async fn start() -> (EmbeddedHome, Embedded, Grpc<Channel>) {
    let home = EmbeddedHome::new(CSV, &[("durability", "process"), ("sessions_max", "1000")]);
    let server = home.start().await;
    let client = Grpc::new(channel(&home.socket()).await.expect("a started server listens"));
    (home, server, client)
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; bytes.remaining()];
        bytes.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
