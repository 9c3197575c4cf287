//! Reading and checking the ledger, beside a running server or without one.

mod line;
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
    Verify(StateDirArg),
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
        AuditCommand::Verify(state_dir) => verify::run(&ledger_dir(state_dir, global)?, output),
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

fn ledger_dir(state_dir: StateDirArg, global: &GlobalArgs) -> Result<PathBuf, Failure> {
    let settings = SettingsArgs { state_dir, ..SettingsArgs::default() };
    let state_dir = settings::resolve(global, &settings)?.state_dir()?;
    Ok(place::ledger_dir(&state_dir))
}
