//! SIGKILL under load: what a client was told holds, whatever is killed when.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use key_server_core::{Event, KeyRow, Rules, SessionRow};
use key_server_ledger::{Fact, Options, read};
use key_server_projections::SqliteProjection;
use key_server_proto::v1;
use key_server_server::engine;
use key_server_testkit::books::{Books, Call, Session, add};
use key_server_testkit::client::{Client, connect};
use key_server_testkit::picture::{Picture, picture};
use key_server_testkit::process::Home;
use tokio::sync::Notify;

use crate::support::{
    ANTHROPIC, CSV, DEEPSEEK, OPENAI, Random, home, spawn, until, verify, within,
};

const CLIENTS: usize = 6;
/// A kill waits for so many answers at most.
const ANSWERS_MAX: usize = 90;
const MODELS: [&str; 3] = [OPENAI, ANTHROPIC, DEEPSEEK];

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_and_count_nothing_twice() {
    let home = home(CSV).with("KEY_SERVER_LEDGER_SEGMENT_BYTES_MAX", 65_536);
    Fleet::new(home).survive(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_that_only_the_kernel_has() {
    let home = home(CSV).with("KEY_SERVER_DURABILITY", "process");
    Fleet::new(home).survive(25).await;
}

/// Clients with their books, and the home of the daemon that they use.
struct Fleet {
    home: Home,
    books: Vec<Books>,
    random: Random,
}

impl Fleet {
    fn new(home: Home) -> Self {
        Self {
            home,
            books: (0..CLIENTS).map(|client| Books::new(client, &MODELS)).collect(),
            random: Random::new(7),
        }
    }

    async fn survive(mut self, rounds: usize) {
        for round in 0..rounds {
            self.work_until_killed(round % 2 == 1).await;
            self.check_ledger();
            if round % 5 == 1 {
                kill_while_starting(&self.home).await;
            }
            if round % 5 == 2 {
                assert_projection_adds_up(&self.home.state());
            }
            if round % 10 == 3 {
                self.compare_without_database().await;
            }
            verify(&self.home);
        }
        self.end_well().await;
    }

    /// A kill soon after the start finds the local database behind; `is_late`
    /// waits until it was written under load.
    async fn work_until_killed(&mut self, is_late: bool) {
        let (server, mut client) = self.home.start().await.expect("it starts");
        self.settle(&mut client).await;
        let answers = Answers::new(1 + self.random.below(ANSWERS_MAX));
        let mut workers = Vec::new();
        for books in std::mem::take(&mut self.books) {
            let client = connect(&self.home.socket()).await.expect("it listens");
            workers.push(spawn(work(books, client, Arc::clone(&answers))));
        }
        within("the answers of a round", answers.done.notified()).await;
        if is_late {
            self.database_is_written().await;
        }
        server.kill().expect("it runs");
        for worker in workers {
            self.books.push(within("a client", worker).await.expect("it keeps its books"));
        }
    }

    async fn database_is_written(&self) {
        let log = self.home.state().join("state.sqlite-wal");
        let written = || log.metadata().and_then(|log| log.modified()).ok();
        let before = written();
        until("the database is written", async || (written() != before).then_some(())).await;
    }

    /// Every call without an answer is made again; then the books are complete
    /// and the daemon must agree with them.
    async fn settle(&mut self, client: &mut Client) {
        for books in &mut self.books {
            assert!(books.unanswered.is_none() || books.answer(client, true).await);
            books.repeat_reports(client).await;
        }
        self.check(&picture(client).await);
    }

    fn check(&self, picture: &Picture) {
        let mut spent: BTreeMap<&str, v1::Usage> = BTreeMap::new();
        let mut holders: BTreeMap<&str, i64> = BTreeMap::new();
        for books in &self.books {
            books.reported.iter().for_each(|report| {
                add(spent.entry(&report.key_id).or_default(), report);
            });
            for keys in books.live().map(Session::held_keys) {
                keys.into_iter().for_each(|key| *holders.entry(key).or_default() += 1);
            }
        }
        for key in &picture.keys {
            let id = key.key_id.as_str();
            let spent = spent.get(id).copied().unwrap_or_default();
            assert_eq!(key.lifetime, Some(spent), "{id}");
            assert_eq!(key.holders, holders.get(id).copied().unwrap_or_default(), "{id}");
        }
        self.check_sessions(picture);
    }

    fn check_sessions(&self, picture: &Picture) {
        let live = picture.sessions.iter().filter(|session| session.ended_at.is_none());
        let held = |session: &v1::SessionStats| {
            let held = session.allocations.iter().filter(|allocation| allocation.held);
            held.map(|one| (one.model.clone(), one.key_id.clone())).collect::<BTreeSet<_>>()
        };
        let shown: BTreeMap<_, _> =
            live.map(|session| (session.session_id.clone(), held(session))).collect();
        let booked = self.books.iter().flat_map(|books| books.sessions.iter());
        let booked = booked.filter(|(_, session)| session.is_live);
        let booked: BTreeMap<_, _> =
            booked.map(|(id, session)| (id.clone(), session.held.clone())).collect();
        assert_eq!(shown, booked);
        assert_eq!(usize::try_from(picture.totals.sessions_live), Ok(booked.len()));
    }

    /// Looks into the ledger as the kill left it.
    fn check_ledger(&self) {
        let ledger = LedgerBooks::read(&self.home.state().join("ledger"));
        for books in &self.books {
            check_ledger(books, &ledger);
        }
        let open = self.books.iter().filter_map(|books| books.unanswered.as_ref());
        let open = open.filter(|call| matches!(call, Call::Track(_))).count();
        let reported: usize = self.books.iter().map(|books| books.reported.len()).sum();
        assert!((reported..=reported + open).contains(&ledger.reports.len()));
    }

    async fn compare_without_database(&mut self) {
        let (server, mut client) = self.home.start().await.expect("it starts");
        self.settle(&mut client).await;
        let before = picture(&mut client).await;
        server.kill().expect("it runs");
        for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
            let _ = std::fs::remove_file(self.home.state().join(name));
        }
        let (server, mut client) = self.home.start().await.expect("it starts without");
        assert_eq!(picture(&mut client).await, before);
        server.kill().expect("it runs");
    }

    async fn end_well(mut self) {
        let (server, mut client) = self.home.start().await.expect("it starts");
        self.settle(&mut client).await;
        assert!(server.terminate().expect("it runs").success());
        verify(&self.home);
        let counts = self.books.iter().map(|books| books.reported.len());
        assert!(counts.sum::<usize>() > 100, "there was load");
    }
}

/// A kill in the middle of reading the ledger, or of the first record.
async fn kill_while_starting(home: &Home) {
    let server = home.spawn().expect("it can be started");
    let pid = server.pid().to_string();
    let lock = home.state().join("lock");
    until("it works in the state directory", async || {
        let holder = std::fs::read_to_string(&lock).expect("there is a lock");
        (holder == pid).then_some(())
    })
    .await;
    server.kill().expect("it runs");
}

/// The database and the ledger's tail give the same as the ledger alone.
fn assert_projection_adds_up(state: &Path) {
    let copy = tempfile::tempdir().expect("there is room");
    let run = std::process::Command::new("cp").arg("-r").arg(state).arg(copy.path()).status();
    assert!(run.expect("cp is there").success());
    let copy = copy.path().join("state");
    let with = rows(&copy);
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let _ = std::fs::remove_file(copy.join(name));
    }
    assert_eq!(with, rows(&copy));
}

fn rows(state: &Path) -> (Vec<KeyRow>, Vec<SessionRow>) {
    let node = std::fs::read_to_string(state.join("node_id")).expect("it has a name");
    let database = SqliteProjection::open(&state.join("state.sqlite"));
    let mut database = database.expect("the database opens");
    let (options, rules) = (Options::default(), Rules::default());
    let ledger = state.join("ledger");
    let restored = engine::restore(&ledger, node.trim(), &options, &mut database, &rules);
    let (mut keys, mut sessions) = restored.expect("the ledger opens").state.rows();
    keys.sort_by_key(|key| key.facts.key);
    sessions.sort_by(|a, b| a.session.cmp(&b.session));
    sessions.iter_mut().for_each(|session| {
        session.allocations.sort_by(|a, b| (&a.model, a.key).cmp(&(&b.model, b.key)));
    });
    (keys, sessions)
}

/// Calls until there is no answer.
async fn work(mut books: Books, mut client: Client, answers: Arc<Answers>) -> Books {
    while books.call(&mut client).await {
        answers.one();
    }
    books
}

/// Counts the answers of all clients and tells when a round is over.
struct Answers {
    count: AtomicUsize,
    wanted: usize,
    done: Notify,
}

impl Answers {
    fn new(wanted: usize) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), wanted, done: Notify::new() })
    }

    fn one(&self) {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.wanted {
            self.done.notify_one();
        }
    }
}

fn check_ledger(books: &Books, ledger: &LedgerBooks) {
    for (id, session) in &books.sessions {
        for (model, key) in &session.given {
            let given = (id.clone(), model.clone(), key.clone());
            assert!(ledger.given.contains(&given), "{given:?} left without a record");
        }
        assert!(session.is_live || ledger.ended.contains(id), "{id} was released");
    }
    for report in &books.reported {
        let event = (report.session_id.clone(), report.event_id.clone());
        let tokens = (report.key_id.clone(), report.input_tokens, report.output_tokens);
        assert_eq!(ledger.reports.get(&event), Some(&tokens), "{event:?}");
    }
}

/// What the ledger says, read beside the daemon's back.
#[derive(Default)]
struct LedgerBooks {
    /// (session, model, key)
    given: BTreeSet<(String, String, String)>,
    /// By session and event id: key, input and output tokens.
    reports: BTreeMap<(String, String), (String, i64, i64)>,
    ended: BTreeSet<String>,
}

impl LedgerBooks {
    fn read(dir: &Path) -> Self {
        let mut books = Self::default();
        for record in read::records(dir, None).expect("there is a ledger") {
            if let Fact::Domain(event) = record.expect("it verifies").fact {
                books.add(&event);
            }
        }
        books
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::KeysSelected(selected) => {
                let session = selected.session.id.to_string();
                self.given.extend(
                    selected.picks.iter().map(|pick| {
                        (session.clone(), pick.model.to_string(), pick.key.to_string())
                    }),
                );
            }
            Event::UsageTracked(usage) => {
                let event = (usage.session.id.to_string(), usage.event_id.to_string());
                let count = |tokens: u64| i64::try_from(tokens).expect("reports are small");
                let tokens = (count(usage.tokens.input), count(usage.tokens.output));
                let report = (usage.key.to_string(), tokens.0, tokens.1);
                assert!(self.reports.insert(event, report).is_none(), "twice: {usage:?}");
            }
            Event::KeysReleased(released) if released.deadline.is_none() => {
                self.ended.insert(released.session.id.to_string());
            }
            _ => {}
        }
    }
}
