//! The server within a process of this program, with its record or without.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use key_server_projections::SqliteProjection;
use key_server_secrets::{AgeFileStore, IdentitySource};
use key_server_server::config::{Sources, resolve};
use key_server_server::lifecycle::{self, Parts};
use key_server_server::state_dir::StateDir;

use crate::{csv, own};

/// What becomes of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audit {
    /// Replies wait until it is on the disk.
    Disk,
    /// Replies wait until the kernel has it.
    Process,
    /// There is none: nothing is encoded, chained or written.
    Off,
}

/// Serves so many keys until it is killed.
pub(crate) async fn serve(dir: &Path, audit: Audit, keys: usize) -> anyhow::Result<()> {
    let durability = match audit {
        Audit::Disk => "disk",
        Audit::Process => "process",
        Audit::Off => {
            key_server_ledger::write_nothing();
            "process"
        }
    };
    let csv = dir.join("api_keys.csv");
    std::fs::write(&csv, csv::with_keys(keys))?;
    let settings = [
        ("socket", own::socket(dir).display().to_string()),
        ("key_config_file", csv.display().to_string()),
        ("durability", durability.to_owned()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    let settings = resolve(&Sources::new(settings, [])).ok().context("the settings are right")?.0;
    let state_dir = StateDir::claim(&dir.join("state"))?;
    let store = AgeFileStore::open(state_dir.path(), &IdentitySource::StateDirectory)?;
    let projection = SqliteProjection::open(&state_dir.path().join("state.sqlite"))?;
    let parts = Parts {
        settings,
        csv_is_expected: true,
        state_dir,
        inherited: None,
        store: Arc::new(store),
        offline: None,
        projection: Box::new(projection),
        fleet: None,
        clock: None,
        background: Vec::new(),
        notes: Vec::new(),
    };
    let mut running = lifecycle::start(parts).await?;
    Err(running.failed().await.into())
}
