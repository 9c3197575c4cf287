use std::path::{Path, PathBuf};

use clap::Args;
use key_server_proto::v1::row_problem::Severity;
use key_server_proto::v1::{ReloadKeysRequest, ReloadKeysResponse, RowProblem};

use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::text::{counted, thousands};
use crate::{json, word};

pub(crate) const EXAMPLES: &str = "\
All or nothing: with a bad row nothing changes, and every bad row is named.
Exit code 1: refused.

Examples:
  key-server reload --dry-run
  key-server reload --path new_keys.csv
  key-server reload --force";

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Read this CSV instead of the configured one
    #[arg(long, value_name = "CSV")]
    path: Option<PathBuf>,
    /// Report what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Accept a file that withdraws more than half of the keys
    #[arg(long)]
    force: bool,
}

/// `key-server reload`
pub(crate) fn run(
    args: ReloadArgs,
    server: &mut Server,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let path = args.path.as_deref().map(for_server).transpose()?;
    let request = ReloadKeysRequest {
        path: path.unwrap_or_default(),
        force: args.force,
        dry_run: args.dry_run,
    };
    let reloaded = server.reload(request)?;
    if output.is_json() {
        output.json(&json::reloaded(&reloaded))?;
    } else if reloaded.success {
        output.line(summary(&reloaded, args.dry_run))?;
    }
    output.flush()?;
    if !reloaded.success {
        return Err(refused(&reloaded));
    }
    if !output.is_json() {
        reloaded.problems.iter().for_each(|problem| output.warn(&in_words(problem)));
    }
    Ok(Exit::Ok)
}

/// The server works in another directory: it gets the whole path.
fn for_server(path: &Path) -> Result<String, Failure> {
    let whole = std::path::absolute(path);
    let whole = whole.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let text = whole.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(format!("{} is not UTF-8: rename it", path.display())))
}

fn summary(reloaded: &ReloadKeysResponse, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let ReloadKeysResponse { added, changed, withdrawn, unchanged, .. } = reloaded;
    format!(
        "{} {would}added, {} changed, {} withdrawn, {} unchanged",
        counted(*added, "key", "keys"),
        thousands(*changed),
        thousands(*withdrawn),
        thousands(*unchanged),
    )
}

fn refused(reloaded: &ReloadKeysResponse) -> Failure {
    let message = match reloaded.error.as_str() {
        "" => "the reload was refused; nothing changed",
        error => error,
    };
    reloaded.problems.iter().map(labelled).fold(Failure::no(message), Failure::detail)
}

fn labelled(problem: &RowProblem) -> String {
    let severity = match problem.severity() {
        Severity::Unspecified => word::severity(Severity::Error),
        severity => word::severity(severity),
    };
    format!("{severity}: {}", in_words(problem))
}

/// `line 3, api_key: …`
fn in_words(problem: &RowProblem) -> String {
    let line = (problem.line > 0).then(|| format!("line {}", problem.line));
    let column = (!problem.column.is_empty()).then(|| format!("column {}", problem.column));
    let place: Vec<_> = line.into_iter().chain(column).collect();
    match place.is_empty() {
        true => format!("the file: {}", problem.message),
        false => format!("{}: {}", place.join(", "), problem.message),
    }
}
