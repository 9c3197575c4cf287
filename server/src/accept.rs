//! The accept loop: who is calling is asked before anything is read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use key_server_ledger::Caller;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::transport::server::Connected;

use crate::guard::Peer;
use crate::program;

/// How long to wait when the system has no descriptors left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A connection with its peer; counts against the limit while it lives.
pub struct Connection {
    stream: UnixStream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// Accepts until the receiver is gone. At most `connections_max` at once; a
/// connection whose peer the kernel does not name is dropped.
pub async fn accept(
    listener: UnixListener,
    connections_max: usize,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let connection = tokio::select! {
            () = connections.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => identify(stream, permit),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            },
        };
        let Some(connection) = connection else { continue };
        if connections.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

fn identify(stream: UnixStream, permit: OwnedSemaphorePermit) -> Option<Connection> {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            tracing::warn!("dropped a connection whose peer is unknown: {error}");
            return None;
        }
    };
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let exe = program::of(pid);
    let caller = Caller {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid,
        exe: exe.map(|path| path.to_string_lossy().into()),
    };
    Some(Connection { stream, peer: Peer(Arc::new(caller)), _permit: permit })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
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
