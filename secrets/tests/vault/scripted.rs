//! A server that answers by script: for what no Vault does, or ours lacks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What is answered: bytes, and pauses between them.
pub(crate) struct Answer {
    pub(crate) parts: Vec<Vec<u8>>,
    pub(crate) pause: Duration,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::with_header(status, "content-type: application/json", body)
    }

    pub(crate) fn with_header(status: u16, header: &str, body: &str) -> Self {
        let text = format!(
            "HTTP/1.1 {status} x\r\n{header}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { parts: vec![text.into_bytes()], pause: Duration::ZERO }
    }
}

/// A server on a local port; it ends when dropped.
pub(crate) struct Scripted {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    _tasks: JoinSet<()>,
}

impl Scripted {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&requests);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                connections.spawn(async move { serve(stream, &*answer, &seen).await });
            }
        });
        Self { port, requests, _tasks: tasks }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&Request) -> Answer + Sync),
    seen: &Mutex<Vec<Request>>,
) {
    while let Some(request) = read(&mut stream).await {
        let Answer { parts, pause } = answer(&request);
        seen.lock().unwrap().push(request);
        for part in parts {
            if stream.write_all(&part).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                })
                .unwrap_or(0_usize);
            if body.len() >= length {
                return Some(Request { head: head.to_owned(), body: body.to_owned() });
            }
        }
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}
