//! The least that the same answer can cost: a bare tonic server on a Unix
//! socket whose reply waits for the disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;

use anyhow::Context;
use key_server_proto::v1;
use key_server_proto::v1::key_server_server::{KeyServer, KeyServerServer};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::{csv, own};

/// What one call adds to the file.
const RECORD_BYTES: usize = 400;

/// What a reply of the floor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// One fdatasync for all calls that came meanwhile.
    Disk,
    /// Nothing.
    None,
}

/// Serves until it is killed.
pub(crate) async fn serve(dir: &Path, durability: Durability) -> anyhow::Result<()> {
    let file = File::options().create(true).append(true).open(dir.join("floor.log"))?;
    let listener = UnixListener::bind(own::socket(dir))?;
    let disk = (durability == Durability::Disk).then(|| start_writer(file)).transpose()?;
    let floor = Floor { disk, response: response() };
    tonic::transport::Server::builder()
        .add_service(KeyServerServer::new(floor))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("the floor cannot serve")
}

/// A call that waits for the disk.
type Waiting = oneshot::Sender<()>;

struct Floor {
    disk: Option<mpsc::Sender<Waiting>>,
    response: v1::SelectKeysResponse,
}

/// One thread that writes for all.
fn start_writer(file: File) -> anyhow::Result<mpsc::Sender<Waiting>> {
    let (calls, waiting) = mpsc::channel();
    std::thread::Builder::new().name("writer".into()).spawn(|| write(file, waiting))?;
    Ok(calls)
}

fn write(mut file: File, calls: mpsc::Receiver<Waiting>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while let Ok(first) = calls.recv() {
        let group: Vec<Waiting> = std::iter::once(first).chain(calls.try_iter()).collect();
        bytes.resize(group.len() * RECORD_BYTES, b'x');
        file.write_all(&bytes)?;
        file.sync_data()?;
        for call in group {
            let _ = call.send(());
        }
    }
    Ok(())
}

/// As long as the daemon's, with one key.
fn response() -> v1::SelectKeysResponse {
    let time = "2026-11-22T19:00:00.5Z".parse().ok();
    let key = v1::SelectedKey {
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        api_key: csv::fake_secret(0),
        key_id: "k_aaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
        tier: v1::Tier::Unused.into(),
        expires_at: time,
        already_held: false,
    };
    v1::SelectKeysResponse {
        success: true,
        keys: vec![key],
        error: String::new(),
        expires_at: time,
        shortages: Vec::new(),
    }
}

impl Floor {
    async fn answer(&self) -> Result<Response<v1::SelectKeysResponse>, Status> {
        if let Some(disk) = &self.disk {
            let (done, written) = oneshot::channel();
            disk.send(done).map_err(|_| Status::unavailable("the writer ended"))?;
            written.await.map_err(|_| Status::unavailable("the writer ended"))?;
        }
        Ok(Response::new(self.response.clone()))
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the floor only selects"))
}

#[tonic::async_trait]
impl KeyServer for Floor {
    async fn select_keys_for_session(
        &self,
        _: Request<v1::SelectKeysRequest>,
    ) -> Result<Response<v1::SelectKeysResponse>, Status> {
        self.answer().await
    }

    async fn track_usage(
        &self,
        _: Request<v1::TrackUsageRequest>,
    ) -> Result<Response<v1::TrackUsageResponse>, Status> {
        not_here()
    }

    async fn get_stats(
        &self,
        _: Request<v1::GetStatsRequest>,
    ) -> Result<Response<v1::GetStatsResponse>, Status> {
        not_here()
    }

    async fn reload_keys(
        &self,
        _: Request<v1::ReloadKeysRequest>,
    ) -> Result<Response<v1::ReloadKeysResponse>, Status> {
        not_here()
    }

    async fn release_key(
        &self,
        _: Request<v1::ReleaseKeyRequest>,
    ) -> Result<Response<v1::ReleaseKeyResponse>, Status> {
        not_here()
    }

    async fn health(
        &self,
        _: Request<v1::HealthRequest>,
    ) -> Result<Response<v1::HealthResponse>, Status> {
        not_here()
    }
}
