//! Panics where there can be none by rights: each costs its call and nothing
//! else. They come by the clock, which is a port, so the server has no switch
//! for them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use key_server_proto::v1;
use key_server_server::panics::log_panics;
use key_server_testkit::clock::Look;
use key_server_testkit::picture::picture;
use key_server_testkit::requests::{reason, release, select, selected};
use key_server_testkit::server::{Embedded, EmbeddedHome};
use key_server_testkit::wait::until;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const MODEL: &str = "openai/gpt-4o";
const CSV: &str = "\
provider,model,api_key,max_holders
OpenAI,gpt-4o,sk-fake-openai-1,1
OpenAI,gpt-4o,sk-fake-openai-2,1
OpenAI,gpt-4o,sk-fake-openai-3,
";
/// After the record, while the answer is made.
const PANICS_IN_ANSWERS: usize = 9_800;
/// Under the engine's lock: memory is made anew after each.
const PANICS_UNDER_LOCK: usize = 200;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The id by which the log tells of a call that panicked.
fn error_id(status: &Status) -> String {
    assert_eq!(reason(status), (Code::Internal, "INTERNAL".into()));
    let details = status.get_error_details();
    let id = details.error_info().unwrap().metadata["error_id"].clone();
    assert!(status.message().contains(&id), "{status:?}");
    id
}

/// Selects until the panic that was asked for has happened; answers what the
/// call that met it was told, if it was this one and not work of the server.
async fn panic_once(home: &EmbeddedHome, server: &mut Embedded, look: Look) -> Option<Status> {
    home.clock.panic_at(look);
    let answer = server.client.select_keys_for_session(select("s1", &[MODEL], 2)).await;
    assert!(!home.clock.will_panic(), "a call looks at the clock");
    let status = match answer {
        Ok(_) => return None,
        Err(status) => status,
    };
    match status.code() {
        Code::Internal => Some(status),
        // It happened to the server's own work, which is being repaired.
        code => {
            assert_eq!(code, Code::Unavailable, "{status:?}");
            None
        }
    }
}

/// Waits until calls are taken again.
async fn calls_are_taken(server: &mut Embedded) {
    until("memory is restored", async || {
        let answer = server.client.select_keys_for_session(select("s1", &[MODEL], 2)).await;
        answer.is_ok().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_panics_cost_ten_thousand_calls_and_nothing_else() {
    let log = Log::default();
    let lines = log.clone();
    tracing_subscriber::fmt().with_writer(move || lines.clone()).with_ansi(false).init();
    log_panics();
    let home = EmbeddedHome::new(CSV, &[("durability", "process"), ("calls_per_second", "0")]);
    let mut server = home.start().await;
    let mut told = Vec::new();
    for number in 0..PANICS_IN_ANSWERS {
        told.extend(panic_once(&home, &mut server, Look::Wall).await);
        if number % 3 == 0 {
            // What was recorded before the panic is what a repeat gives.
            let keys = selected(&mut server.client, select("s1", &[MODEL], 2)).await;
            assert!(keys.iter().all(|key| key.already_held));
            let released = server.client.release_key(release("s1")).await.unwrap();
            assert_eq!(released.into_inner().released, 2);
        }
    }
    for _ in 0..PANICS_UNDER_LOCK {
        calls_are_taken(&mut server).await;
        told.extend(panic_once(&home, &mut server, Look::Timeline).await);
    }
    calls_are_taken(&mut server).await;
    // Nearly all met the calls that they were meant for.
    assert!(told.len() > (PANICS_IN_ANSWERS + PANICS_UNDER_LOCK) * 9 / 10, "{}", told.len());
    // From here on a panic is the test's own.
    let _ = std::panic::take_hook();
    let text = log.text();
    let logged: HashSet<&str> = text.split("error.id=").skip(1).map(|rest| &rest[..16]).collect();
    for status in &told {
        let id = error_id(status);
        assert!(logged.contains(id.as_str()), "the log tells of {id}");
    }
    assert!(!text.contains(Look::MESSAGE), "what a panic said may be a secret");
    let health = server.client.health(v1::HealthRequest {}).await.unwrap().into_inner();
    let note = health.notes.iter().find(|note| note.contains("panicked")).unwrap();
    assert!(note.contains(&format!("panicked {} times", PANICS_IN_ANSWERS + PANICS_UNDER_LOCK)));
    // Nothing is held but by the one session; then by none.
    let before = picture(&mut server.client).await;
    assert_eq!(before.totals.sessions_live, 1);
    assert_eq!(before.keys.iter().map(|key| key.holders).sum::<i64>(), 2);
    server.client.release_key(release("s1")).await.unwrap();
    let after = picture(&mut server.client).await;
    assert_eq!(after.totals.sessions_live, 0);
    assert!(after.keys.iter().all(|key| key.holders == 0));
    // The ledger says the same.
    server.running.stop().await.unwrap();
    let mut server = home.start().await;
    let again = picture(&mut server.client).await;
    assert_eq!(again.totals.sessions_live, 0);
    assert!(again.keys.iter().all(|key| key.holders == 0));
    server.running.stop().await.unwrap();
}
