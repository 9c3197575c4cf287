//! From settings to a serving socket, and back in good order.
//!
//! Every task belongs to one [`Running`]: the soft stop ends accepting and
//! lets calls finish, the grace ends them, and the first task that fails stops
//! the whole. The order of the end is the reverse of the start: socket, calls,
//! projection, ledger. Peers that say nothing are not waited for.

use std::fs::Metadata;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use key_server_ledger::checkpoint::{CheckpointError, Signer};
use key_server_ledger::{
    AppendError, Condition, Durability as LedgerDurability, Fact, OpenError, Options,
};
use key_server_projections::LocalProjection;
use key_server_proto::FILE_DESCRIPTOR_SET;
use key_server_proto::v1::key_server_server::{KeyServerServer, SERVICE_NAME};
use key_server_secrets::{CsvLimits, SecretStore};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::accept::{Room, accept};
use crate::access::Access;
use crate::audit::Audit;
use crate::checkpoints::CheckpointWriter;
use crate::clock::{Clock, SystemClock};
use crate::config::{Durability, Settings};
use crate::connection::Conversation;
use crate::engine::{self, Engine, Restored};
use crate::error::ServiceError;
use crate::fleet::{Fleet, FleetParts, Follower, Publisher};
use crate::gate::Gate;
use crate::guard::{Guard, Peer};
use crate::keys::{Csv, Keys, KeysError, OfflineKeys, Reload, Reloaded};
use crate::observer::Observer;
use crate::policy::PolicyError;
use crate::projector::{FLUSH_EVERY, PRUNE_EVERY, Projector};
use crate::recovery;
use crate::service::{Node, Service};
use crate::services::Services;
use crate::socket::{self, Ownership, Socket, SocketError};
use crate::state_dir::StateDir;

/// How often sessions are looked at that are overdue.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// A reload of 1,000,000 rows is one call: it has to fit.
const LEDGER_QUEUE_ENTRIES_MAX: usize = 2_000_000;
const LEDGER_QUEUE_BYTES_MAX: usize = 2 << 30;
/// How long the end waits for tasks after their calls were cut.
const CUT_MAX: Duration = Duration::from_secs(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Work that goes on as long as the server runs.
pub type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Gives up what the process has no use for once its socket listens, and says
/// in words what that was.
pub type Confine = Box<dyn FnOnce() -> String + Send>;

/// What a server is made of; whoever calls names the adapters.
pub struct Parts {
    /// Resolved.
    pub settings: Settings,
    /// Whether somebody named the CSV: then it is missed when it is not there.
    pub csv_is_expected: bool,
    /// Claimed.
    pub state_dir: StateDir,
    /// A socket that listens already, in place of one at the settings' path.
    pub inherited: Option<OwnedFd>,
    /// Where the keys are kept.
    pub store: Arc<dyn SecretStore>,
    /// The copy of the keys to start with while the store is away, if any.
    pub offline: Option<OfflineKeys>,
    /// The local projection.
    pub projection: Box<dyn LocalProjection>,
    /// The other nodes; none when this one works alone.
    pub fleet: Option<FleetParts>,
    /// Another clock than the system's.
    pub clock: Option<Arc<dyn Clock>>,
    /// Work of the adapters that goes on until the end.
    pub background: Vec<Background>,
    /// What Health is to tell besides.
    pub notes: Vec<String>,
    /// Done before the first connection is accepted.
    pub confine: Confine,
}

/// Why a server does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// Checkpoints of the ledger.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A record that must be written.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The end of the ledger.
    #[error("the ledger could not be closed in good order: {0}")]
    Close(#[from] AppendError),
    /// The runtime.
    #[error("cannot serve: {0}")]
    Serve(String),
}

/// A server at work.
pub struct Running {
    tasks: TaskTracker,
    /// No new connections and calls.
    stop: CancellationToken,
    /// No calls at all any more.
    cut: CancellationToken,
    shutdown_grace: Duration,
    failure: mpsc::Receiver<RunError>,
    service: Service,
    checkpoints: Arc<CheckpointWriter>,
    socket: Option<Socket>,
}

/// Starts a server; when this returns it answers on its socket.
///
/// # Errors
/// Any [`RunError`]; what was begun is undone.
pub async fn start(parts: Parts) -> Result<Running, RunError> {
    let settings = Arc::new(parts.settings);
    let ownership = Ownership::of(&settings)?;
    if parts.inherited.is_none() {
        socket::check(&settings.socket, &ownership)?;
    }
    let ledger_dir = parts.state_dir.ledger();
    let mut projection = parts.projection;
    let rules = settings.rules();
    let restored = tokio::task::block_in_place(|| {
        let options = ledger_options(&settings);
        let node = &parts.state_dir.node_id;
        engine::restore(&ledger_dir, node, &options, &mut *projection, &rules)
    })?;
    let Restored { ledger, state, opened } = restored;
    if let Some(cut) = &opened.cut {
        tracing::warn!("the ledger ended in the middle of a write; it was cut: {cut:?}");
    }
    let timeline = parts.state_dir.path().join("timeline");
    let clock = parts
        .clock
        .unwrap_or_else(|| Arc::new(SystemClock::open(&timeline, opened.last_at.max(state.now()))));
    let node_id: Arc<str> = parts.state_dir.node_id.as_str().into();
    let among = parts.fleet.is_some().then_some(node_id);
    let signer = Signer::open(parts.state_dir.path(), &parts.state_dir.node_id)?;
    let access = access(&settings, ownership, &clock)?;
    let engine = Engine::new((ledger, state), rules, Arc::clone(&clock), among);
    let engine = Arc::new(engine);
    note_start(&engine, settings.durability, parts.fleet.is_some()).await?;
    let checkpoints = Arc::new(CheckpointWriter::new(Arc::clone(&engine), signer));
    let projector = Arc::new(Projector::new(Arc::clone(&engine), projection));
    let csv = csv(&settings, parts.csv_is_expected, &parts.state_dir.node_id);
    let keys = Keys::new(Arc::clone(&engine), parts.store, csv)
        .looking_every(settings.vault_poll)
        .with_access(Arc::clone(&access))
        .with_copy(parts.offline);
    let keys = Arc::new(keys);
    keys.start().await?;
    let (fleet, mut company) = fleet(&engine, parts.fleet);
    if let Some(company) = &mut company {
        company.meet().await;
    }
    let (socket, listener) = match parts.inherited {
        Some(inherited) => (None, socket::adopt(inherited)?),
        None => {
            let (socket, listener) = socket::listen(&settings.socket, &ownership)?;
            (Some(socket), listener)
        }
    };
    if let Some(metadata) = socket_file(&listener, &settings) {
        let lets_group_in = metadata.mode() & 0o020 != 0;
        access.socket_is_of(metadata.uid(), lets_group_in.then(|| metadata.gid()));
    }
    let listener = UnixListener::from_std(listener).map_err(cannot_serve)?;
    let node = Node {
        id: parts.state_dir.node_id.clone(),
        version: VERSION,
        durability: settings.durability,
        caps_alone: settings.caps_alone,
        started: clock.now(),
        notes: parts.notes,
        sandbox: (parts.confine)(),
        panics: Arc::default(),
    };
    let guard = Arc::new(Guard::new(&settings, access));
    let audit = Arc::new(Audit::new(Arc::clone(&engine)));
    let node = Arc::new(node);
    let service = Service { engine, keys, projector, guard, audit, node, fleet };
    let state_dir = parts.state_dir;
    let running = Running::spawn(&settings, service, checkpoints, socket, listener, state_dir);
    running.keep(company);
    running.background(parts.background);
    Ok(running)
}

/// The file at which applications find the listener: one that was inherited
/// need not be where the settings say.
fn socket_file(
    listener: &std::os::unix::net::UnixListener,
    settings: &Settings,
) -> Option<Metadata> {
    let bound = listener.local_addr().ok()?;
    match bound.as_pathname() {
        // Bound out of sight, and moved into place.
        Some(path) if path.starts_with("/proc/self/fd") => settings.socket.symlink_metadata().ok(),
        Some(path) => path.symlink_metadata().ok(),
        None => None,
    }
}

fn access(
    settings: &Settings,
    ownership: Ownership,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Access>, PolicyError> {
    let file = Some(settings.policy_file.clone()).filter(|file| !file.as_os_str().is_empty());
    let lets_everyone_connect = ownership.mode & 0o002 != 0;
    if file.is_none() && lets_everyone_connect {
        tracing::warn!(
            "socket_mode lets everyone connect, and without a policy_file only root, the server's \
             own uid, the socket's owner and its group are given keys: write a policy (docs/policy.md)"
        );
    }
    let server_uid = rustix::process::geteuid().as_raw();
    Access::open(file, server_uid, Arc::clone(clock)).map(Arc::new)
}

fn fleet(engine: &Arc<Engine>, parts: Option<FleetParts>) -> (Option<Arc<Fleet>>, Option<Company>) {
    let Some(FleetParts { projection, port }) = parts else { return (None, None) };
    let fleet = Arc::new(Fleet::new(Arc::clone(engine), port));
    let publisher = Publisher::new(Arc::clone(&fleet), projection, VERSION);
    let follower = Follower::new(Arc::clone(&fleet));
    (Some(fleet), Some(Company { publisher, follower }))
}

/// Both directions of what nodes tell each other.
struct Company {
    publisher: Publisher,
    follower: Follower,
}

impl Company {
    /// Says that the node is there, and learns what the others did meanwhile.
    async fn meet(&mut self) {
        self.publisher.announce().await;
        self.follower.look_first().await;
    }
}

async fn note_start(
    engine: &Engine,
    durability: Durability,
    shares: bool,
) -> Result<(), ServiceError> {
    let version = VERSION.into();
    let started = Fact::NodeStarted { version, durability: ledger_durability(durability) };
    let rules = Fact::RulesSet { rules: Box::new(engine.rules().clone()), shares };
    engine.note(vec![started, rules]).await
}

fn ledger_durability(durability: Durability) -> LedgerDurability {
    match durability {
        Durability::Disk => LedgerDurability::Disk,
        Durability::Process => LedgerDurability::Process,
    }
}

fn ledger_options(settings: &Settings) -> Options {
    Options {
        durability: ledger_durability(settings.durability),
        segment_bytes_max: settings.ledger_segment_bytes_max,
        queue_entries_max: LEDGER_QUEUE_ENTRIES_MAX,
        queue_bytes_max: LEDGER_QUEUE_BYTES_MAX,
        ..Options::default()
    }
}

fn csv(settings: &Settings, is_expected: bool, node_id: &str) -> Csv {
    Csv {
        path: settings.key_config_file.clone(),
        is_expected,
        limits: CsvLimits { file_bytes_max: settings.csv_bytes_max, ..CsvLimits::default() },
        source: format!("csv@{node_id}"),
    }
}

fn cannot_serve(error: impl ToString) -> RunError {
    RunError::Serve(error.to_string())
}

impl Running {
    fn spawn(
        settings: &Arc<Settings>,
        service: Service,
        checkpoints: Arc<CheckpointWriter>,
        socket: Option<Socket>,
        listener: UnixListener,
        state_dir: StateDir,
    ) -> Self {
        let (failed, failure) = mpsc::channel(1);
        let running = Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            shutdown_grace: settings.shutdown_grace,
            failure,
            service: service.clone(),
            checkpoints: Arc::clone(&checkpoints),
            socket,
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        running.serve(settings, listener, failed, health.clone(), health_service);
        let engine = Arc::clone(&service.engine);
        running.every(TICK_EVERY, move || {
            let engine = Arc::clone(&engine);
            async move { engine.tick() }
        });
        let audit = Arc::clone(&service.audit);
        running.every(TICK_EVERY, move || {
            let audit = Arc::clone(&audit);
            async move { audit.tick() }
        });
        running.every(TICK_EVERY, move || {
            let checkpoints = Arc::clone(&checkpoints);
            async move { tokio::task::block_in_place(|| checkpoints.tick()) }
        });
        let projector = Arc::clone(&service.projector);
        running.every(FLUSH_EVERY, move || {
            let projector = Arc::clone(&projector);
            async move { projector.flush().await }
        });
        let (projector, settings) = (Arc::clone(&service.projector), Arc::clone(settings));
        let ledger_dir = state_dir.ledger();
        running.every(PRUNE_EVERY, move || {
            let (projector, settings) = (Arc::clone(&projector), Arc::clone(&settings));
            let ledger_dir = ledger_dir.clone();
            async move { projector.prune(&settings, &ledger_dir).await }
        });
        running.recover(state_dir, health);
        running
    }

    /// Runs `work` again and again until the stop.
    fn every<Work>(&self, time: Duration, mut work: impl FnMut() -> Work + Send + 'static)
    where
        Work: Future<Output = ()> + Send,
    {
        let stop = self.stop.clone();
        let panics = Arc::clone(&self.service.node.panics);
        self.tasks.spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(time)).await.is_some() {
                // The log has it; the next round may go better.
                let _ = panics
                    .caught(|| "work in the background".to_owned(), async { work().await })
                    .await;
            }
        });
    }

    /// Follows the store, and lets the adapters work.
    fn background(&self, background: Vec<Background>) {
        let keys = Arc::clone(&self.service.keys);
        let follow: Background = Box::pin(async move { keys.follow().await });
        for work in background.into_iter().chain([follow]) {
            let stop = self.stop.clone();
            let panics = Arc::clone(&self.service.node.panics);
            self.tasks.spawn(async move {
                // It cannot be begun again; Health and the log tell of it.
                let work = panics.caught(|| "work in the background".to_owned(), work);
                let _ = stop.run_until_cancelled(work).await;
            });
        }
    }

    /// Tells the other nodes what happens here, and learns what happens there.
    fn keep(&self, company: Option<Company>) {
        let Some(Company { publisher, follower }) = company else { return };
        self.tasks.spawn(publisher.run(self.stop.clone()));
        self.tasks.spawn(follower.run(self.stop.clone()));
    }

    /// Repairs memory and ledger until the stop; holds the state directory.
    fn recover(&self, state_dir: StateDir, health: HealthReporter) {
        let (stop, service) = (self.stop.clone(), self.service.clone());
        self.tasks.spawn(async move {
            let _held = state_dir;
            let panics = Arc::clone(&service.node.panics);
            loop {
                let repairs = recovery::run(service.clone(), health.clone());
                let repairs = panics.caught(|| "the repair of memory".to_owned(), repairs);
                if stop.run_until_cancelled(repairs).await.is_none() {
                    break;
                }
                // Whatever it had done so far, it is done once more.
                service.engine.ask_for_rebuild();
            }
            stop.cancelled().await;
        });
    }

    fn serve(
        &self,
        settings: &Settings,
        listener: UnixListener,
        failed: mpsc::Sender<RunError>,
        health: HealthReporter,
        health_service: HealthServer<impl Health>,
    ) {
        let keys = KeyServerServer::new(self.service.clone())
            .max_decoding_message_size(settings.message_bytes_max);
        let others = Routes::new(health_service)
            .add_service(reflection_v1())
            .add_service(reflection_v1alpha())
            .prepare();
        let clock = Arc::clone(&self.service.engine.clock);
        let gate = Gate::new(clock, settings.calls_per_second, settings.calls_max);
        let services = Services {
            keys,
            others,
            gate: Arc::new(gate),
            audit: Arc::clone(&self.service.audit),
            panics: Arc::clone(&self.service.node.panics),
        };
        self.tell_readiness(health.clone());
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        let services = Arc::new(services);
        let conversation = Conversation::new(settings, services, self.tasks.clone(), (stop, cut));
        let (stop, tasks) = (self.stop.clone(), self.tasks.clone());
        let room = Room::of(settings);
        self.tasks.spawn(async move {
            let accepting = accept(listener, room, stop, |stream, caller, seat| {
                let groups = key_server_sys::peer_groups(&stream).unwrap_or_default();
                let peer = Peer { caller: Arc::new(caller), groups: groups.into() };
                let conversation = conversation.clone().until(seat.give_way.clone());
                let serving = conversation.serve(stream, peer);
                tasks.spawn(async move {
                    serving.await;
                    drop(seat);
                });
            });
            if let Err(error) = accepting.await {
                let _ = failed.send(cannot_serve(error)).await;
            }
        });
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.cancelled().await;
            set_serving(&health, ServingStatus::NotServing).await;
        });
    }

    /// Says to whoever asks for health whether there are keys to give.
    fn tell_readiness(&self, health: HealthReporter) {
        let (stop, service) = (self.stop.clone(), self.service.clone());
        self.tasks.spawn(async move {
            let mut readiness = service.keys.readiness();
            loop {
                set_serving(&health, serving(&service)).await;
                tokio::select! {
                    changed = readiness.changed() => if changed.is_err() { return },
                    () = service.keys.copy_gets_too_old() => {}
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    /// Resolves when a task failed on which everything depends.
    pub async fn failed(&mut self) -> RunError {
        match self.failure.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Reads CSV and store again, as `ReloadKeys` does.
    ///
    /// # Errors
    /// As [`Keys::reload`].
    pub async fn reload(&self) -> Result<Reloaded, ServiceError> {
        let reload = Reload { path: None, force: false, dry_run: false };
        self.service.keys.reload(None, &reload).await
    }

    /// For watching over the server.
    pub fn observer(&self) -> Observer {
        Observer::new(self.service.clone())
    }

    /// How long calls in progress may take when the server stops.
    pub fn shutdown_grace(&self) -> Duration {
        self.shutdown_grace
    }

    /// What the server looks like from outside, in one line.
    pub fn summary(&self) -> String {
        let totals = self.service.engine.read(key_server_core::State::totals);
        format!(
            "{} keys, {} models, {} live sessions",
            totals.keys, totals.models, totals.sessions_live
        )
    }

    /// Stops in good order: no new connections, calls finish within the grace,
    /// everything is written.
    ///
    /// # Errors
    /// When the last records could not be written.
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.stop.cancel();
        drop(self.socket.take());
        self.tasks.close();
        let grace = async {
            tokio::time::sleep(self.shutdown_grace).await;
            self.cut.cancel();
            if tokio::time::timeout(CUT_MAX, self.tasks.wait()).await.is_err() {
                tracing::warn!("work in progress hangs; it is left where it is");
            }
        };
        tokio::select! {
            () = self.tasks.wait() => {}
            () = grace => {}
        }
        let Service { engine, projector, audit, .. } = &self.service;
        audit.finish();
        projector.flush().await;
        engine.note(vec![Fact::NodeStopped]).await?;
        projector.flush().await;
        tokio::task::block_in_place(|| {
            engine.ledger().close()?;
            self.checkpoints.finish();
            Ok(())
        })
    }
}

/// Whether calls can be answered.
pub(crate) fn serving(service: &Service) -> ServingStatus {
    let is_writable = service.engine.ledger().condition() == Condition::Writable;
    if service.keys.is_ready() && is_writable {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

/// What `grpc.health.v1` answers for the server and for the service.
pub(crate) async fn set_serving(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status(SERVICE_NAME, status).await;
}

fn reflection_v1() -> tonic_reflection::server::v1::ServerReflectionServer<
    impl tonic_reflection::server::v1::ServerReflection,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the contract was compiled together with this program")
}

fn reflection_v1alpha() -> tonic_reflection::server::v1alpha::ServerReflectionServer<
    impl tonic_reflection::server::v1alpha::ServerReflection,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .expect("the contract was compiled together with this program")
}
