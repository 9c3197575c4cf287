//! The server within a process of this program, with its record or without.

use std::path::Path;

use anyhow::Context;
use key_server_server::config::{Sources, resolve};
use key_server_server::lifecycle;
use key_server_testkit::server::embedded_parts;

use crate::{csv, own};

const KEYS: usize = 1_000;

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

/// Serves until it is killed.
pub(crate) async fn serve(dir: &Path, audit: Audit) -> anyhow::Result<()> {
    let durability = match audit {
        Audit::Disk => "disk",
        Audit::Process => "process",
        Audit::Off => {
            key_server_ledger::write_nothing();
            "process"
        }
    };
    let csv = dir.join("api_keys.csv");
    std::fs::write(&csv, csv::with_keys(KEYS))?;
    let settings = [
        ("socket", own::socket(dir).display().to_string()),
        ("key_config_file", csv.display().to_string()),
        ("state_dir", dir.join("state").display().to_string()),
        ("durability", durability.to_owned()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    let settings = resolve(&Sources::new(settings, [])).ok().context("the settings are right")?.0;
    let mut running = lifecycle::start(embedded_parts(settings, None)).await?;
    Err(running.failed().await.into())
}
