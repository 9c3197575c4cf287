//! Whether a cap holds over several nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use key_server_testkit::client::Client;
use tokio::task::JoinSet;

use crate::clock::now;
use crate::figures::{median_time, percentile};
use crate::fleet::Fleet;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, output};

const NODES: usize = 4;
const CLIENTS: usize = 64;
const KEYS: usize = 10;
/// Holders of one key: of 64 clients, 44 find none most of the time.
const CAP: u32 = 2;
const TIME: Duration = Duration::from_secs(30);
const HELD_FOR: Duration = Duration::from_millis(5);

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let cap = CAP.to_string();
    let settings = [("KEY_SERVER_MAX_HOLDERS", cap.as_str())];
    let fleet = Fleet::start_with(place, NODES, KEYS, &settings).await?;
    let books = Arc::new(Mutex::new(Books::default()));
    output::progress(&format!("  {CLIENTS} clients of {NODES} nodes"));
    let end = now() + place.time(TIME);
    let mut callers = JoinSet::new();
    for client in fleet.clients().into_iter().cycle().take(CLIENTS) {
        callers.spawn(hold_until(end, client, Arc::clone(&books)));
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    fleet.stop()?;
    let books = lock(&books);
    ensure!(books.refused > 0, "no key was ever at its cap");
    let ms = |percent| percentile(&books.times, percent).as_secs_f64() * 1e3;
    Ok(vec![Row {
        what: "overshoot of max_holders, 64 clients, 4 nodes",
        goal: Goal::AtMost(0.0),
        measured: f64::from(books.most.saturating_sub(CAP)),
        unit: Unit::Count,
        details: format!(
            "{KEYS} keys with {CAP} holders each, at most {} seen; {} selects given (p50 {:.1} ms, p99 {:.1} ms), {} refused",
            books.most,
            books.times.len(),
            median_time(&books.times).as_secs_f64() * 1e3,
            ms(99.0),
            books.refused
        ),
    }])
}

/// Who holds what for certain: from the reply of the select to the request of
/// the release.
#[derive(Default)]
struct Books {
    holders: BTreeMap<String, u32>,
    /// The most that any key ever had.
    most: u32,
    refused: u64,
    times: Vec<Duration>,
}

impl Books {
    fn given(&mut self, key: &str, time: Duration) {
        let holders = self.holders.entry(key.to_owned()).or_default();
        *holders += 1;
        self.most = self.most.max(*holders);
        self.times.push(time);
    }

    fn given_back(&mut self, key: &str) {
        if let Some(holders) = self.holders.get_mut(key) {
            *holders -= 1;
        }
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn hold_until(
    end: Instant,
    mut client: Client,
    books: Arc<Mutex<Books>>,
) -> anyhow::Result<()> {
    while now() < end {
        let (session, begin) = (calls::new_session(), now());
        match calls::try_select(&mut client, &session).await? {
            Ok(key) => {
                lock(&books).given(&key, begin.elapsed());
                tokio::time::sleep(HELD_FOR).await;
                lock(&books).given_back(&key);
                calls::release(&mut client, &session).await?;
            }
            Err(_) => {
                lock(&books).refused += 1;
                tokio::time::sleep(HELD_FOR).await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_holders_at_once_are_remembered() {
        let mut books = Books::default();
        for key in ["one", "other", "one"] {
            books.given(key, Duration::ZERO);
        }
        books.given_back("one");
        books.given("one", Duration::ZERO);
        assert_eq!(books.most, 2);
    }
}
