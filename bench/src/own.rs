//! This program once more, in a process of its own that serves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use key_server_testkit::client::connect;

use crate::Role;

/// Where such a process listens that was given this directory.
pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("s.sock")
}

/// Such a process; killed when dropped.
pub(crate) struct OwnProcess {
    child: Child,
    dir: PathBuf,
}

impl OwnProcess {
    /// Starts one with its files in `parent`, in a directory named as its role,
    /// and waits until it listens.
    pub(crate) async fn start(role: Role, parent: &Path) -> anyhow::Result<Self> {
        let value = role.to_possible_value().context("every role has a name")?;
        let dir = parent.join(value.get_name());
        std::fs::create_dir(&dir)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", value.get_name(), "--dir"]).arg(&dir).stdin(Stdio::null());
        let own = Self { child: command.spawn()?, dir };
        for _ in 0..500 {
            if connect(&own.socket()).await.is_ok() {
                return Ok(own);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("{} does not answer", value.get_name())
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
