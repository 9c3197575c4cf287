//! One connection from its first byte to its end.
//!
//! It must begin to speak HTTP/2 at once, is told to go when it has been idle
//! or there for too long or when the server stops, may finish its calls then,
//! and is cut when it does not.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::calls::{Answerer, Calls};
use crate::config::Settings;
use crate::guard::Peer;
use crate::services::Services;

/// What every HTTP/2 client says first.
///
/// # Source
/// RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a peer is asked whether it is there, and how long it may think:
/// one that was stopped or never reads does not keep its place.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(10);
/// How long a connection without calls may take to go when it was told to: a
/// client that reads needs a moment, one that does not has nothing to lose.
const FAREWELL: Duration = Duration::from_millis(500);
/// All headers of one call: gRPC's need some 300 bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// What a client may send ahead of what was read, by call and by connection:
/// so much of memory can a peer take that sends and never finishes.
const CALL_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;
/// Answers that a client does not read, by call.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
struct Times {
    first_byte: Duration,
    idle: Duration,
    age: Duration,
    grace: Duration,
    request: Duration,
    answer: Duration,
}

/// Serves connections, one at a time or many.
#[derive(Clone)]
pub(crate) struct Conversation {
    http: http2::Builder<Tasks>,
    services: Arc<Services>,
    times: Times,
    /// Told to go.
    stop: CancellationToken,
    /// Cut.
    cut: CancellationToken,
    /// Told to go alone.
    give_way: CancellationToken,
}

/// Why a connection is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Nothing was called for long.
    Idle,
    /// It has been there for long.
    Old,
    /// Another user is to have its place.
    GiveWay,
    /// The server stops.
    Stop,
}

impl Conversation {
    /// With the limits of the settings. Calls belong to `tasks`; connections
    /// are told to go at `stop` and cut at `cut`.
    pub(crate) fn new(
        settings: &Settings,
        services: Arc<Services>,
        tasks: TaskTracker,
        (stop, cut): (CancellationToken, CancellationToken),
    ) -> Self {
        let mut http = http2::Builder::new(Tasks(tasks));
        http.timer(TokioTimer::new())
            .max_concurrent_streams(settings.streams_max)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .initial_stream_window_size(CALL_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT);
        let times = Times {
            first_byte: settings.first_byte_timeout,
            idle: settings.connection_idle,
            age: settings.connection_age,
            grace: settings.connection_grace,
            request: settings.request_timeout,
            answer: settings.answer_timeout,
        };
        Self { http, services, times, stop, cut, give_way: CancellationToken::new() }
    }

    /// The same for a connection that is told to go at `give_way`, too.
    pub(crate) fn until(self, give_way: CancellationToken) -> Self {
        Self { give_way, ..self }
    }

    /// Serves one connection until its end.
    ///
    /// # Cancellation
    /// Cuts it.
    pub(crate) async fn serve(self, mut stream: UnixStream, peer: Peer) {
        let mut greeting = pin!(tokio::time::sleep(self.times.first_byte));
        tokio::select! {
            is_http = preface(&mut stream) => if !is_http { return },
            () = &mut greeting => return,
            () = self.stop.cancelled() => return,
            () = self.give_way.cancelled() => return,
        }
        let calls = Arc::new(Calls::default());
        let answerer = Answerer::new(Arc::clone(&self.services), peer, &calls, self.times.request);
        let is_greeted = Arc::new(AtomicBool::new(false));
        let stream = Greeted::new(stream, Arc::clone(&is_greeted));
        let mut http = pin!(self.http.serve_connection(TokioIo::new(stream), answerer));
        // A peer that never took note of our settings is not there.
        let never_greets = async {
            greeting.await;
            if is_greeted.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let reason = tokio::select! {
            ended = &mut http => return log(ended),
            () = never_greets => return,
            () = calls.unread(self.times.answer) => return unread(),
            reason = self.leave(&calls) => reason,
        };
        http.as_mut().graceful_shutdown();
        tokio::select! {
            ended = &mut http => log(ended),
            // What is left of it does not answer.
            () = calls.idle(FAREWELL) => {}
            () = calls.unread(self.times.answer) => unread(),
            () = self.patience(reason) => {
                tracing::warn!("cut a connection with calls that did not end in time ({reason:?})");
            }
        }
    }

    async fn leave(&self, calls: &Calls) -> Leave {
        tokio::select! {
            () = self.stop.cancelled() => Leave::Stop,
            () = self.give_way.cancelled() => Leave::GiveWay,
            () = tokio::time::sleep(self.times.age) => Leave::Old,
            () = calls.idle(self.times.idle) => Leave::Idle,
        }
    }

    /// How long calls in progress may go on.
    async fn patience(&self, reason: Leave) {
        if reason == Leave::Stop {
            return self.cut.cancelled().await;
        }
        tokio::select! {
            () = tokio::time::sleep(self.times.grace) => {}
            () = self.cut.cancelled() => {}
        }
    }
}

fn unread() {
    tracing::debug!("cut a connection whose client does not read its answers");
}

/// Clients go away all the time: nothing that an operator needs to know.
fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Reads what every client says first; whether it did. What is something else
/// is known by its first wrong byte.
async fn preface(stream: &mut UnixStream) -> bool {
    let mut bytes = [0; PREFACE.len()];
    let mut count = 0;
    while count < PREFACE.len() {
        match stream.read(&mut bytes[count..]).await {
            Ok(read) if read > 0 => count += read,
            _ => return false,
        }
        if bytes[..count] != PREFACE[..count] {
            return false;
        }
    }
    true
}

/// Calls run among the server's tasks, which are waited for at its end.
#[derive(Clone, Debug)]
struct Tasks(TaskTracker);

impl<Work> Executor<Work> for Tasks
where
    Work: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: Work) {
        self.0.spawn(work);
    }
}

/// A connection whose preface was read already, and is read once more by HTTP;
/// notes when the peer acknowledges our settings.
struct Greeted {
    stream: UnixStream,
    preface: &'static [u8],
    frames: Frames,
    is_greeted: Arc<AtomicBool>,
}

impl Greeted {
    fn new(stream: UnixStream, is_greeted: Arc<AtomicBool>) -> Self {
        Self { stream, preface: PREFACE, frames: Frames::default(), is_greeted }
    }
}

/// Walks over HTTP/2 frames until one acknowledges our settings.
///
/// # Source
/// RFC 9113, 4.1 and 6.5.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 9],
    /// How much of the header is there.
    header_bytes: usize,
    /// How much of the payload is still to come.
    payload_bytes: usize,
    is_acknowledged: bool,
}

const SETTINGS: u8 = 4;
const ACKNOWLEDGED: u8 = 1;

impl Frames {
    fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_acknowledged {
            if self.payload_bytes > 0 {
                let skipped = self.payload_bytes.min(bytes.len());
                self.payload_bytes -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (self.header.len() - self.header_bytes).min(bytes.len());
            self.header[self.header_bytes..][..taken].copy_from_slice(&bytes[..taken]);
            self.header_bytes += taken;
            bytes = &bytes[taken..];
            if self.header_bytes == self.header.len() {
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload_bytes = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.is_acknowledged = kind == SETTINGS && flags & ACKNOWLEDGED != 0;
                self.header_bytes = 0;
            }
        }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.preface.is_empty() {
            let count = self.preface.len().min(buffer.remaining());
            let (now, later) = self.preface.split_at(count);
            buffer.put_slice(now);
            self.preface = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if !self.frames.is_acknowledged {
            self.frames.walk(&buffer.filled()[before..]);
            if self.frames.is_acknowledged {
                self.is_greeted.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings with one value, a window update, the acknowledgement.
    const FRAMES: [u8; 15 + 13 + 9] = [
        0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0xff, 0xff, // settings
        0, 0, 4, 8, 1, 0, 0, 0, 0, 0, 0, 4, 1, // window update
        0, 0, 0, 4, 1, 0, 0, 0, 0, // acknowledgement
    ];

    #[test]
    fn the_acknowledgement_is_found_however_the_bytes_come() {
        for size in 1..=FRAMES.len() {
            let mut frames = Frames::default();
            let chunks: Vec<_> = FRAMES.chunks(size).collect();
            for (number, chunk) in chunks.iter().enumerate() {
                assert!(!frames.is_acknowledged, "size {size}, before chunk {number}");
                frames.walk(chunk);
            }
            assert!(frames.is_acknowledged, "size {size}");
        }
    }

    #[test]
    fn settings_alone_are_no_acknowledgement() {
        let mut frames = Frames::default();
        frames.walk(&FRAMES[..15 + 13]);
        assert!(!frames.is_acknowledged);
    }

    #[tokio::test]
    async fn another_protocol_is_known_by_its_first_wrong_byte() {
        use tokio::io::AsyncWriteExt;
        for (bytes, is_http) in [(&PREFACE[..], true), (b"PRI * HTTP/1", false), (b"G", false)] {
            let (mut near, mut far) = UnixStream::pair().unwrap();
            far.write_all(bytes).await.unwrap();
            assert_eq!(preface(&mut near).await, is_http, "{bytes:?}");
        }
        let (mut near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert!(!preface(&mut near).await);
    }
}
