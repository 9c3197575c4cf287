//! Reading and checking the ledger, beside a running server or without one.

mod export;
mod line;
mod replay;
mod segments;
mod show;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;

use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::place;
use crate::settings::{self, SettingsArgs, StateDirArg};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check the hash chain over all segments
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Decide past selections again, and say which did not follow the rules
    #[command(after_help = replay::EXAMPLES)]
    Replay(StateDirArg),
    /// Write records for other programs: JSON lines, CSV, syslog, journald
    #[command(after_help = export::EXAMPLES)]
    Export(export::ExportArgs),
    /// Show the last records, and those that come
    #[command(after_help = show::TAIL_EXAMPLES)]
    Tail(show::TailArgs),
    /// Show records of a session, key, user, kind or time
    #[command(after_help = show::SHOW_EXAMPLES)]
    Show(show::ShowArgs),
}

/// `key-server audit …`
pub(crate) fn run(
    command: AuditCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Verify(args) => {
            let dir = state_dir(args.state_dir.clone(), global)?;
            verify::run(&args, &dir, output)
        }
        AuditCommand::Replay(state_dir) => replay::run(&ledger_dir(state_dir, global)?, output),
        AuditCommand::Export(args) => {
            let dir = ledger_dir(args.state_dir.clone(), global)?;
            export::run(&args, &dir, output)
        }
        AuditCommand::Tail(args) => {
            let dir = ledger_dir(args.state_dir.clone(), global)?;
            show::tail(&args, &dir, output)
        }
        AuditCommand::Show(args) => {
            let dir = ledger_dir(args.state_dir.clone(), global)?;
            show::show(&args, &dir, output)
        }
    }
}

fn ledger_dir(state_dir_arg: StateDirArg, global: &GlobalArgs) -> Result<PathBuf, Failure> {
    Ok(place::ledger_dir(&state_dir(state_dir_arg, global)?))
}

fn state_dir(state_dir: StateDirArg, global: &GlobalArgs) -> Result<PathBuf, Failure> {
    let settings = SettingsArgs { state_dir, ..SettingsArgs::default() };
    settings::resolve(global, &settings)?.state_dir()
}
