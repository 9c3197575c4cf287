//! Keys and their store: what a server serves while both change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use key_server_proto::v1;
use key_server_secrets::{Change, SecretStore, SecretStoreError, StoredKey, async_trait};
use key_server_server::lifecycle::Parts;
use key_server_testkit::requests::{select, selected};
use key_server_testkit::server::{Embedded, EmbeddedHome};
use key_server_testkit::wait::{spawn, until, within};
use tokio::sync::Semaphore;

const MODEL: &str = "openai/gpt-4o";

fn csv_of(numbers: std::ops::Range<usize>) -> String {
    let rows = numbers.map(|number| format!("OpenAI,gpt-4o,sk-fake-openai-{number}\n"));
    format!("provider,model,api_key\n{}", rows.collect::<String>())
}

async fn reload(server: &mut Embedded) -> v1::ReloadKeysResponse {
    let reloaded = server.client.reload_keys(v1::ReloadKeysRequest::default()).await;
    reloaded.unwrap().into_inner()
}

/// A store that is away at first; then its first load answers late, with what
/// it held when it was asked.
struct LateStore {
    store: Arc<dyn SecretStore>,
    loads_count: AtomicU32,
    answer: Semaphore,
}

#[async_trait]
impl SecretStore for LateStore {
    fn name(&self) -> &'static str {
        "late"
    }

    fn may_be_away(&self) -> bool {
        true
    }

    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        let number = self.loads_count.fetch_add(1, Ordering::SeqCst);
        if number == 0 {
            return Err(SecretStoreError::Unavailable("away".into()));
        }
        let keys = self.store.load().await;
        if number == 1 {
            self.answer.acquire().await.unwrap().forget();
        }
        keys
    }

    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError> {
        self.store.commit(change).await
    }
}

/// The parts of a server that serves the store alone.
fn without_csv(home: &EmbeddedHome) -> Parts {
    std::fs::remove_file(home.csv()).unwrap();
    let mut parts = home.parts();
    parts.csv_is_expected = false;
    parts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_start_does_not_undo_a_reload() {
    let home = EmbeddedHome::new(&csv_of(0..2), &[]);
    home.start().await.running.stop().await.unwrap();
    let mut parts = without_csv(&home);
    let (loads_count, answer) = (AtomicU32::new(0), Semaphore::new(0));
    let late = LateStore { store: Arc::clone(&parts.store), loads_count, answer };
    let late = Arc::new(late);
    parts.store = Arc::clone(&late) as _;
    let mut server = home.try_start_of(parts).await.unwrap();
    until("it is tried again", async || {
        (late.loads_count.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
    let path = home.csv().with_file_name("other.csv").display().to_string();
    std::fs::write(&path, csv_of(0..4)).unwrap();
    let mut client = server.client.clone();
    let request = v1::ReloadKeysRequest { path, ..Default::default() };
    let mut reloading = spawn(async move { client.reload_keys(request).await });
    // A reload that does not wait for its turn is over by then.
    let is_over = tokio::time::timeout(Duration::from_secs(1), &mut reloading).await.is_ok();
    late.answer.add_permits(1);
    if !is_over {
        within("the reload ends", reloading).await.unwrap().unwrap();
    }
    assert_eq!(selected(&mut server.client, select("s1", &[MODEL], 4)).await.len(), 4);
    // By then what was late had its turn, too.
    reload_again_changes_nothing(&mut server).await;
}

async fn reload_again_changes_nothing(server: &mut Embedded) {
    let again = reload(server).await;
    assert_eq!((again.success, again.added, again.withdrawn, again.unchanged), (true, 0, 0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_csv_that_was_removed_is_not_noted_after_a_reload() {
    let home = EmbeddedHome::new(&csv_of(0..2), &[]);
    home.start().await.running.stop().await.unwrap();
    std::fs::write(home.csv(), "provider,model,api_key\nOpenAI,gpt-4o,\n").unwrap();
    let mut parts = home.parts();
    parts.csv_is_expected = false;
    let mut server = home.try_start_of(parts).await.unwrap();
    assert_eq!(health(&mut server).await.status(), v1::HealthStatus::Degraded);
    std::fs::remove_file(home.csv()).unwrap();
    assert!(reload(&mut server).await.success);
    let health = health(&mut server).await;
    assert_eq!((health.status(), health.notes), (v1::HealthStatus::Ok, Vec::new()));
}

async fn health(server: &mut Embedded) -> v1::HealthResponse {
    server.client.health(v1::HealthRequest {}).await.unwrap().into_inner()
}
