//! Measures Key Server against floors: `make bench`, or single parts by name.
//!
//! Figures of one machine say little; so what can be compared is compared with
//! a floor that runs in the same minutes, in turns. `bench/README.md` has the
//! figures, and how each was measured.

mod audited;
mod calls;
mod chi_square;
mod clock;
mod csv;
mod daemon;
mod figures;
mod fleet;
mod floor;
mod load;
mod output;
mod own;
mod parts;
mod process;
mod redis;
mod row;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use tokio::runtime::Runtime;

use crate::audited::Audit;
use crate::floor::Durability;
use crate::parts::Part;
use crate::row::Row;

/// Measures Key Server and prints what was found beside the goals.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything when nothing is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Where servers keep their state: on the disk that is meant, with 8 GB for
    /// `restart`.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// The daemon; the one beside this program unless named.
    #[arg(long)]
    program: Option<PathBuf>,
    /// A tenth of the time and of the rows in the parts about several nodes:
    /// enough to see that they work, not how fast.
    #[arg(long)]
    quick: bool,
    /// This program starts itself for what needs a process of its own.
    #[arg(long, value_enum, hide = true)]
    role: Option<Role>,
}

/// What a process of this program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Serves the floor in `--dir`, durable on the disk.
    FloorDisk,
    /// Serves the floor in `--dir`, without a disk.
    FloorMemory,
    /// Serves in `--dir`; replies wait until the record is on the disk.
    AuditDisk,
    /// Serves in `--dir`; replies wait until the kernel has the record.
    AuditProcess,
    /// Serves in `--dir`, without a record.
    AuditOff,
    /// Says how many bytes a session takes.
    SessionMemory,
}

/// Where the parts find what they start.
pub(crate) struct Place {
    /// The daemon.
    pub(crate) program: PathBuf,
    /// For state.
    pub(crate) dir: PathBuf,
    quick: bool,
}

impl Place {
    /// How long a load goes on, or a tenth of it.
    pub(crate) fn time(&self, time: Duration) -> Duration {
        if self.quick { time / 10 } else { time }
    }

    /// A directory for state, removed when it is dropped.
    pub(crate) fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("key-server-").tempdir_in(&self.dir)
    }

    /// How many of something are measured, or a tenth of them.
    pub(crate) fn count(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(10) } else { count }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        None => measure(arguments),
        Some(Role::FloorDisk) => serve_floor(&arguments.dir, Durability::Disk),
        Some(Role::FloorMemory) => serve_floor(&arguments.dir, Durability::None),
        Some(Role::AuditDisk) => serve_audited(&arguments.dir, Audit::Disk),
        Some(Role::AuditProcess) => serve_audited(&arguments.dir, Audit::Process),
        Some(Role::AuditOff) => serve_audited(&arguments.dir, Audit::Off),
        Some(Role::SessionMemory) => {
            output::answer(parts::session_memory());
            Ok(())
        }
    }
}

fn serve_floor(dir: &Path, durability: Durability) -> anyhow::Result<()> {
    Runtime::new()?.block_on(floor::serve(dir, durability))
}

fn serve_audited(dir: &Path, audit: Audit) -> anyhow::Result<()> {
    Runtime::new()?.block_on(audited::serve(dir, audit))
}

fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let program = arguments.program.map_or_else(beside, Ok)?;
    ensure!(
        program.is_file(),
        "{} is not there; build it with `cargo build --release -p key-server`",
        program.display()
    );
    let place = Place { program, dir: arguments.dir, quick: arguments.quick };
    let parts = if arguments.parts.is_empty() { Part::value_variants() } else { &arguments.parts };
    // One thread: a loader that gets in the way as little as it can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows: Vec<Row> = Vec::new();
    for part in parts {
        output::progress(&format!("{part:?}: load average {}", process::load_average()?));
        let measured = runtime.block_on(part.run(&place));
        rows.extend(measured.with_context(|| format!("{part:?} could not be measured"))?);
    }
    output::table(&rows);
    Ok(())
}

fn beside() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("key-server"))
}
