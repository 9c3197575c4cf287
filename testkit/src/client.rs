//! A client of a daemon at a socket.

use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use key_server_proto::v1::key_server_client::KeyServerClient;
use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

/// A client as the contract generates it.
pub type Client = KeyServerClient<Channel>;

/// Connects to the socket at `path`.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(path: &Path) -> Result<Client, Error> {
    channel(path).await.map(KeyServerClient::new)
}

/// Connects to the socket at `path`, for any service there.
///
/// # Errors
/// When nobody listens there.
pub async fn channel(path: &Path) -> Result<Channel, Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await
}

/// Does something as `uid` and the group of that number, in a thread that has
/// no other groups.
///
/// # Panics
/// When that does not work; only root may be somebody else.
pub fn as_user<T: Send + 'static>(uid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    as_member(uid, uid, &[], work)
}

/// Does something as `uid`, in these groups.
fn as_member<T: Send + 'static>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let thread = std::thread::spawn(move || {
        let (gid, uid) = (Gid::from_raw(gid), Uid::from_raw(uid));
        if rustix::process::geteuid().is_root() {
            set_thread_groups(&groups).expect("root may");
        }
        set_thread_res_gid(gid, gid, gid).expect("root may");
        set_thread_res_uid(uid, uid, uid).expect("root may");
        work()
    });
    thread.join().expect("it was done")
}

/// A client that the kernel knows as `uid`, in a group of the same number and
/// no other: credentials belong to the thread that connects.
///
/// # Panics
/// When that does not work; only root may be somebody else.
pub async fn connect_as(uid: u32, socket: &Path) -> Client {
    connect_in(uid, uid, &[], socket).await
}

/// A client that the kernel knows as `uid`, in these groups.
///
/// # Panics
/// As [`connect_as`].
pub async fn connect_in(uid: u32, gid: u32, groups: &[u32], socket: &Path) -> Client {
    let path = socket.to_owned();
    let connect = move || StdStream::connect(path).expect("everybody may connect");
    let stream = as_member(uid, gid, groups, connect);
    stream.set_nonblocking(true).expect("it is open");
    let stream = Mutex::new(Some(UnixStream::from_std(stream).expect("it is open")));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = stream.map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("it is used up")))
    });
    let endpoint = Endpoint::from_static("http://localhost");
    KeyServerClient::new(endpoint.connect_with_connector(connector).await.expect("it listens"))
}
