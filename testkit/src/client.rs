//! A client of a daemon at a socket.

use std::path::Path;

use hyper_util::rt::TokioIo;
use key_server_proto::v1::key_server_client::KeyServerClient;
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
