//! `key-server serve`: starts the server, and ends it on a signal.

use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use key_server_secrets::SecretStoreError;
use key_server_server::config::{Origin, Shown};
use key_server_server::keys::KeysError;
use key_server_server::lifecycle::{self, Confine, RunError, Running};
use key_server_server::panics;
use key_server_server::socket::{self, Ownership};
use key_server_server::state_dir::StateDir;
use rustix::fs::Mode;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::activation;
use crate::adapters;
use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::logging::{self, LogFile};
use crate::notify::{Manager, Variables};
use crate::place::Environment;
use crate::policy;
use crate::sandbox::Sandbox;
use crate::settings::{self, Resolved, SettingsArgs};

pub(crate) const EXAMPLES: &str = "\
Signals:
  SIGHUP            read policy and CSV again, open the log file again
  SIGTERM, SIGINT   stop: calls in progress finish; a second one stops at once

Examples:
  key-server serve
  key-server serve --keys api_keys.csv --socket /run/key-server/keyserver.sock
  key-server serve --set session_ttl=30m --set durability=process";

/// How long the end waits for what is left of the work: what hangs in a system
/// call then does not keep the process.
const LEFTOVERS_MAX: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Serves until a signal.
///
/// # Errors
/// Whatever keeps it from serving; exit code 2.
pub(crate) fn run(global: &GlobalArgs, args: &ServeArgs) -> Result<Exit, Failure> {
    let mut resolved = settings::resolve(global, &args.settings)?;
    resolved.forget_secrets();
    let variables = Variables::take(&mut resolved.environment);
    // Nothing that this process makes is for others; the socket has its own.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let state_dir = resolved.state_dir()?;
    let inherited = activation::inherited(&Environment::of_process())?;
    let access = Ownership::of(&resolved.settings).map_err(cannot_start)?;
    if inherited.is_none() {
        socket::check(&resolved.settings.socket, &access).map_err(cannot_start)?;
    }
    let state_dir = StateDir::claim(&state_dir).map_err(cannot_start)?;
    let log = logging::start(&resolved.settings)?;
    panics::log_panics();
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    let manager = Manager::open(variables);
    let sandbox = Sandbox::begin(&resolved.settings, state_dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(cannot_start)?;
    let confine = Box::new(|| sandbox.map_or_else(|| "off".to_owned(), Sandbox::close));
    let ended = runtime.block_on(serve(resolved, state_dir, inherited, (log, confine), &manager));
    runtime.shutdown_timeout(LEFTOVERS_MAX);
    ended
}

async fn serve(
    resolved: Resolved,
    state_dir: StateDir,
    inherited: Option<OwnedFd>,
    (log, confine): (Option<LogFile>, Confine),
    manager: &Manager,
) -> Result<Exit, Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot_start)?;
    let mut ends = EndSignals::new().map_err(cannot_start)?;
    let socket = match inherited {
        Some(_) => "the socket that systemd passed".to_owned(),
        None => resolved.settings.socket.display().to_string(),
    };
    let csv_is_expected = is_named(&resolved.shown, "key_config_file");
    let signals = EndSignals::new().map_err(cannot_start)?;
    let watching = Handle::current().spawn(end_at_once(signals));
    // On this thread, whose stack forgets soon what the identity left there.
    let parts = adapters::parts(resolved, state_dir, inherited, csv_is_expected, confine)?;
    manager.opening();
    let mut running = lifecycle::start(parts).await.map_err(not_started)?;
    watching.abort();
    tracing::info!("serving {} on {}", running.summary(), socket);
    let observer = running.observer();
    let ended = tokio::select! {
        ended = until_the_end(&mut running, &mut hangup, &mut ends, log.as_ref(), manager) => ended,
        never = manager.follow(observer) => match never {},
    };
    manager.stopping(running.shutdown_grace());
    if let Err(error) = ended {
        tracing::error!("{error}");
        let _ = running.stop().await;
        return Err(cannot_start(error));
    }
    tracing::info!("stopping");
    tokio::select! {
        stopped = running.stop() => stopped.map_err(cannot_start)?,
        () = ends.any() => return Err(Failure::no("stopped at once by a second signal")),
    }
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Ends the process at a signal, whatever system call the start hangs in.
/// Nobody is served yet, and a kill would do no harm either.
async fn end_at_once(mut signals: EndSignals) {
    signals.any().await;
    tracing::info!("stopped before it had started");
    std::process::exit(0);
}

/// Reloads when it is asked to.
///
/// # Errors
/// What the server cannot go on without.
async fn until_the_end(
    running: &mut Running,
    hangup: &mut Signal,
    ends: &mut EndSignals,
    log: Option<&LogFile>,
    manager: &Manager,
) -> Result<(), RunError> {
    loop {
        tokio::select! {
            error = running.failed() => return Err(error),
            _ = hangup.recv() => {
                manager.reloading();
                tokio::select! {
                    is_taken_over = reload(running, log) => manager.reloaded(!is_taken_over),
                    () = ends.any() => return Ok(()),
                }
            }
            () = ends.any() => return Ok(()),
        }
    }
}

fn is_named(shown: &[Shown], name: &str) -> bool {
    let named = shown.iter().find(|one| one.name == name && one.origin != Origin::Default);
    named.is_some_and(|one| !one.value.is_empty())
}

/// Whether what was read is in force now.
async fn reload(running: &Running, log: Option<&LogFile>) -> bool {
    if let Some(Err(error)) = log.map(LogFile::reopen) {
        tracing::warn!("the log file cannot be opened again: {error}");
    }
    let refusal = match running.reload().await {
        Ok(reloaded) => match reloaded.refusal {
            None => {
                tracing::info!(
                    "reloaded: {} added, {} changed, {} withdrawn, {} unchanged",
                    reloaded.added,
                    reloaded.changed,
                    reloaded.withdrawn,
                    reloaded.unchanged
                );
                return true;
            }
            Some(refusal) => refusal.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::error!("not reloaded: {refusal}");
    false
}

fn cannot_start(error: impl ToString) -> Failure {
    Failure::of_lines(Exit::Usage, &error.to_string())
}

fn not_started(error: RunError) -> Failure {
    match error {
        RunError::Keys(KeysError::Bad(problems)) => {
            let failure = Failure::usage("the keys cannot be imported, and the store is empty");
            problems.into_iter().fold(failure, Failure::detail)
        }
        RunError::Policy(error) => policy::failure(&error),
        RunError::Keys(KeysError::Store(error @ SecretStoreError::Denied(_))) => {
            cannot_start(error)
        }
        error => cannot_start(error),
    }
}

/// What asks a server to end.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
