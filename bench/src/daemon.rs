//! The daemon in a directory of its own, and how long it takes to answer.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::ensure;
use key_server_proto::v1;
use key_server_testkit::client::Client;
use key_server_testkit::process::{Home, ServerProcess};

use crate::clock::now;
use crate::{Place, csv, process};

/// A start may take long where all of a large ledger is read.
const START_MAX: Duration = Duration::from_secs(1_200);

/// A daemon at work.
pub(crate) struct Daemon {
    pub(crate) server: ServerProcess,
    pub(crate) client: Client,
    /// From its start to its first answer.
    pub(crate) started_in: Duration,
    /// Processor time of all its threads until then: what a machine with one
    /// processor and nothing else to do would need.
    pub(crate) started_cpu: Duration,
}

/// A home with so many keys in its CSV.
pub(crate) fn home(place: &Place, keys: usize) -> anyhow::Result<Home> {
    Ok(Home::new_in(&place.dir, &place.program, &csv::with_keys(keys))?)
}

/// The same, with a socket that everybody may connect to.
pub(crate) fn open_home(place: &Place, keys: usize) -> anyhow::Result<Home> {
    let home = home(place, keys)?.with("KEY_SERVER_SOCKET_MODE", "0666");
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(home)
}

/// Starts the daemon.
pub(crate) async fn start(home: &Home) -> anyhow::Result<Daemon> {
    let begin = now();
    let (server, client) = home.start_within(START_MAX).await?;
    let started_in = begin.elapsed();
    let started_cpu = process::cpu_in_all(server.pid())?;
    Ok(Daemon { server, client, started_in, started_cpu })
}

impl Daemon {
    /// What it says of itself.
    pub(crate) async fn health(&mut self) -> anyhow::Result<v1::HealthResponse> {
        Ok(self.client.health(v1::HealthRequest {}).await?.into_inner())
    }

    /// Ends it in good order; answers how long that took.
    pub(crate) fn stop(self) -> anyhow::Result<Duration> {
        let begin = now();
        drop(self.client);
        let status = self.server.terminate()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(begin.elapsed())
    }
}
