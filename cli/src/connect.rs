//! The way to the server, and what to say when there is none.

use std::future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use key_server_proto::v1;
use key_server_proto::v1::key_server_client::KeyServerClient;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::output::time;
use crate::trust::Trusted;
use crate::{refusal, settings};

type Client = KeyServerClient<Channel>;

/// Answers may be this long: a page of keys with many models each.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What the kernel calls a server's process.
const PROGRAM_NAME: &str = "key-server";
/// What the kernel takes as the path of a socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A connected server. Calls block; each has the deadline of `--timeout`.
pub(crate) struct Server {
    client: Client,
    runtime: Runtime,
    timeout: Duration,
    socket: PathBuf,
    /// Who listens, as the kernel says.
    listener_uid: u32,
}

impl Server {
    /// Connects to the socket that flags, environment or settings name.
    ///
    /// # Errors
    /// Exit code 3, with what to do, when nobody answers there, or somebody who
    /// is not trusted to: then nothing was sent.
    pub(crate) fn connect(global: &GlobalArgs) -> Result<Self, Failure> {
        let socket = settings::socket(global)?;
        let trusted = Trusted::of(global)?;
        // The server notes which program calls, and may look only at one that
        // can be dumped. The limit on core files stays at nothing.
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::no(format!("cannot start: {error}")))?;
        let connecting = connect(&socket, &trusted);
        let (client, listener_uid) = runtime.block_on(async {
            tokio::time::timeout(global.timeout, connecting)
                .await
                .unwrap_or_else(|_| Err(silent(&socket, global.timeout)))
        })?;
        Ok(Self { client, runtime, timeout: global.timeout, socket, listener_uid })
    }

    /// Where the server was reached.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn health(&mut self) -> Result<v1::HealthResponse, Failure> {
        self.ask(v1::HealthRequest {}, Client::health)
    }

    /// The uid that it runs as. Its process is looked at where Health tells it;
    /// else it is who listens, which is systemd where that opened the socket.
    pub(crate) fn runs_as(&mut self) -> Option<u32> {
        let pid = self.health().ok()?.pid;
        Some(uid_of_process(pid).unwrap_or(self.listener_uid))
    }

    pub(crate) fn stats(
        &mut self,
        request: v1::GetStatsRequest,
    ) -> Result<v1::GetStatsResponse, Failure> {
        self.ask(request, Client::get_stats)
    }

    pub(crate) fn select(
        &mut self,
        request: v1::SelectKeysRequest,
    ) -> Result<v1::SelectKeysResponse, Failure> {
        self.ask(request, Client::select_keys_for_session)
    }

    pub(crate) fn release(
        &mut self,
        request: v1::ReleaseKeyRequest,
    ) -> Result<v1::ReleaseKeyResponse, Failure> {
        self.ask(request, Client::release_key)
    }

    pub(crate) fn reload(
        &mut self,
        request: v1::ReloadKeysRequest,
    ) -> Result<v1::ReloadKeysResponse, Failure> {
        self.ask(request, Client::reload_keys)
    }

    fn ask<Q, A>(
        &mut self,
        message: Q,
        verb: impl AsyncFnOnce(&mut Client, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        let (client, timeout) = (&mut self.client, self.timeout);
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(timeout, verb(client, request)).await });
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if is_late(&status) => Err(silent(&self.socket, self.timeout)),
            Ok(Err(status)) => Err(refusal::failure(&status, &self.socket)),
            Err(_) => Err(silent(&self.socket, self.timeout)),
        }
    }
}

/// Whether the deadline passed; the transport calls that a cancellation.
fn is_late(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

async fn connect(socket: &Path, trusted: &Trusted) -> Result<(Client, u32), Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let listener_uid = trusted.check(&stream, socket)?;
    // The one connection there is, so the one that was checked; when it ends,
    // so does the command.
    let stream = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
        future::ready(stream.map(TokioIo::new))
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|_| not_ours(socket))?;
    let client = Client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    Ok((client, listener_uid))
}

/// The effective uid of a server's process. None when there is no such process
/// here: the server may be in another container.
fn uid_of_process(pid: i64) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    if value("Name:")?.trim() != PROGRAM_NAME {
        return None;
    }
    value("Uid:")?.split_whitespace().nth(1)?.parse().ok()
}

/// Whoever listens there does not speak gRPC.
fn not_ours(socket: &Path) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format!("what listens on {} is not a key server", socket.display()),
    )
    .hint("name the socket with --socket PATH or KEY_SERVER_SOCKET")
}

fn silent(socket: &Path, timeout: Duration) -> Failure {
    let (socket, timeout) = (socket.display(), time::long(timeout));
    Failure::new(
        Exit::Unreachable,
        format!("the server on {socket} did not answer within {timeout}"),
    )
    .hint("wait longer with --timeout 30s, and look at the server's log")
}

/// Why nobody could be reached on `socket`, and what to do.
fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(
        Exit::Unreachable,
        format!("no server can be reached on {}: {error}", socket.display()),
    );
    let kind = std::fs::symlink_metadata(socket).and_then(|_| std::fs::metadata(socket));
    let is_socket = kind.as_ref().is_ok_and(|found| found.file_type().is_socket());
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return failure.hint(format!(
            "a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes: choose a shorter one"
        ));
    }
    match error.kind() {
        io::ErrorKind::NotFound => start_it(failure),
        io::ErrorKind::PermissionDenied => not_permitted(failure, socket),
        _ if kind.is_ok() && !is_socket => failure.hint(format!(
            "{} is not a socket: name the right one with --socket PATH or KEY_SERVER_SOCKET",
            socket.display()
        )),
        io::ErrorKind::ConnectionRefused => {
            start_it(failure.detail("the socket is there, but the server that made it has ended"))
        }
        _ => failure,
    }
}

fn start_it(failure: Failure) -> Failure {
    failure
        .hint("start the server with `key-server serve`")
        .hint("or name the socket of one that runs with --socket PATH or KEY_SERVER_SOCKET")
}

fn not_permitted(failure: Failure, socket: &Path) -> Failure {
    let us = rustix::process::geteuid().as_raw();
    let Ok(found) = std::fs::metadata(socket) else {
        return failure
            .detail(format!("you are uid {us}, and may not look into the socket's directory"))
            .hint(
                "run this as the server's user, or ask its operator for access to the directory",
            );
    };
    let (uid, gid, mode) = (found.uid(), found.gid(), found.mode() & 0o777);
    failure
        .detail(format!(
            "the socket belongs to uid {uid}, gid {gid} (mode {mode:04o}); you are uid {us}"
        ))
        .hint(format!(
            "run this as uid {uid}, or join the group that the server opens its socket to (socket_group)"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(socket: &Path, kind: io::ErrorKind) -> String {
        let failure = unreachable(socket, &io::Error::from(kind));
        assert_eq!(failure.exit, Exit::Unreachable);
        [failure.details, failure.hints].concat().join("; ")
    }

    #[test]
    fn each_way_to_fail_has_its_advice() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("k.sock");
        assert!(hints(&missing, io::ErrorKind::NotFound).contains("key-server serve"));
        let regular = dir.path().join("regular");
        std::fs::write(&regular, "").unwrap();
        assert!(hints(&regular, io::ErrorKind::ConnectionRefused).contains("is not a socket"));
        let denied = hints(&regular, io::ErrorKind::PermissionDenied);
        assert!(denied.contains("belongs to uid") && denied.contains("you are uid"), "{denied}");
        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        assert!(hints(&dead, io::ErrorKind::ConnectionRefused).contains("has ended"));
        let long = dir.path().join("x".repeat(120));
        assert!(hints(&long, io::ErrorKind::InvalidInput).contains("107 bytes"));
    }
}
