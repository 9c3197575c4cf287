//! What comes back from an address where a Vault should be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread_local;
use std::time::Duration;

use key_server_secrets::{KvVersion, SecretKey, SecretStore, SignIn, VaultSettings, VaultStore};
use tokio::runtime::Runtime;

const STATUSES: [u16; 8] = [200, 204, 301, 400, 403, 404, 429, 503];

/// What the server answers: to everything but the question under test, what a
/// Vault would.
#[derive(Clone, Default)]
struct Script {
    /// A part of the path of the question that gets the bytes.
    question: &'static str,
    status: u16,
    body: Vec<u8>,
}

struct Place {
    address: String,
    script: Arc<Mutex<Script>>,
    runtime: Runtime,
}

thread_local! {
    static PLACE: Place = Place::new();
}

/// The first byte says which question is answered with the rest, with which
/// status, and which version of the engine is set. Keys come of it or an error
/// in words, without the token.
pub fn run(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else { return };
    let question = ["lookup-self", "ui/mounts", "?list=true", "/k_"][usize::from(choice % 4)];
    let version = [None, Some(KvVersion::V1), Some(KvVersion::V2)][usize::from(choice / 4 % 3)];
    let status = STATUSES[usize::from(choice / 12 % 8)];
    PLACE.with(|place| {
        let script = Script { question, status, body: body.to_vec() };
        *place.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
        let token = Arc::new(SecretKey::copy_of("fake-token-of-the-fuzzer"));
        let settings = VaultSettings {
            kv_version: version,
            request_timeout: Duration::from_secs(10),
            ..VaultSettings::new(place.address.clone(), SignIn::Token(token))
        };
        let store = VaultStore::new(settings).expect("the settings are right");
        match place.runtime.block_on(store.load()) {
            Ok(keys) => assert!(keys.len() <= 2),
            Err(error) => {
                let text = error.to_string();
                assert!(!text.is_empty() && !text.contains("fake-token"), "{text}");
            }
        }
    });
}

impl Place {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let script = Arc::<Mutex<Script>>::default();
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &script));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        Self { address: format!("http://{address}"), script, runtime }
    }
}

/// Answers until the other side is gone.
fn serve(stream: TcpStream, script: &Mutex<Script>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|length| *length > 0)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if header.trim().is_empty() {
                break;
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).ok()?;
        let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (status, body) = match request.contains(script.question) {
            true => (script.status, script.body),
            false => (200, usual(&request).into()),
        };
        let body = if status == 204 { Vec::new() } else { body };
        let mut reply = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nlocation: /v1/elsewhere\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        reply.extend_from_slice(&body);
        writer.write_all(&reply).ok()?;
    }
}

fn usual(request: &str) -> &'static str {
    if request.contains("lookup-self") {
        r#"{"data":{"ttl":0,"renewable":false}}"#
    } else if request.contains("ui/mounts") {
        r#"{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}"#
    } else if request.contains("list=true") {
        r#"{"data":{"keys":["k_one","k_two"]}}"#
    } else {
        r#"{"data":{"data":{"provider":"openai","models":["gpt-4o"],"api_key":"sk-fake-fuzz","sources":["cli"]},"metadata":{"version":1}}}"#
    }
}
