//! Whether two nodes spread sessions over keys as one would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use key_server_testkit::client::Client;

use crate::chi_square::{CLASSES, ONCE_IN_A_THOUSAND, Places, against_equal};
use crate::fleet::Fleet;
use crate::load::at_rate;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, daemon, output};

const KEYS: usize = CLASSES;
/// Selects a second, of both nodes together.
const RATE: f64 = 1_000.0;
const TIME: Duration = Duration::from_secs(20);
/// How long a session lives: some 20 hold each key.
const HELD_FOR: Duration = Duration::from_millis(200);

/// What two statistics came to.
struct Spread {
    /// Of picks over keys, which should be equal.
    keys: f64,
    /// Of picks against the shares that all holders gave at that moment.
    shares: f64,
}

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let time = place.time(TIME);
    output::progress("  two nodes, then one, then two that do not know of each other");
    let fleet = Fleet::start(place, 2, KEYS).await?;
    let shared = spread(fleet.clients(), time).await?;
    fleet.stop()?;
    let (one_home, other_home) = (daemon::home(place, KEYS)?, daemon::home(place, KEYS)?);
    let (one, other) = (daemon::start(&one_home).await?, daemon::start(&other_home).await?);
    let alone = spread(vec![one.client.clone()], time).await?;
    let blind = spread(vec![one.client.clone(), other.client.clone()], time).await?;
    one.stop()?;
    other.stop()?;
    let row = |what, goal, figure: fn(&Spread) -> f64| Row {
        what,
        goal,
        measured: figure(&shared),
        unit: Unit::Ratio,
        details: format!(
            "9 degrees of freedom; one node {:.1}, two without Redis {:.1}",
            figure(&alone),
            figure(&blind)
        ),
    };
    Ok(vec![
        row(
            "two nodes, 500 selects/s each, 10 keys: chi-square of picks over keys",
            Goal::AtMost(ONCE_IN_A_THOUSAND),
            |spread| spread.keys,
        ),
        row(
            "the same against the shares that one node would have given at each moment",
            Goal::None,
            |spread| spread.shares,
        ),
    ])
}

/// What the callers know.
#[derive(Default)]
struct Books {
    keys: BTreeMap<String, usize>,
    holders: [f64; KEYS],
    picks: [u64; KEYS],
    places: Places,
}

async fn spread(clients: Vec<Client>, time: Duration) -> anyhow::Result<Spread> {
    let books = Arc::new(Mutex::new(Books::default()));
    at_rate(RATE, time, |number: usize| {
        hold_for_a_while(clients[number % clients.len()].clone(), Arc::clone(&books))
    })
    .await?;
    let books = books.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(books.keys.len() == KEYS, "only {} keys were given", books.keys.len());
    Ok(Spread { keys: against_equal(&books.picks), shares: books.places.statistic() })
}

async fn hold_for_a_while(mut client: Client, books: Arc<Mutex<Books>>) -> anyhow::Result<()> {
    let session = calls::new_session();
    let key = calls::select(&mut client, &session).await?;
    let place = books.lock().unwrap_or_else(PoisonError::into_inner).picked(key)?;
    tokio::time::sleep(HELD_FOR).await;
    calls::release(&mut client, &session).await?;
    books.lock().unwrap_or_else(PoisonError::into_inner).holders[place] -= 1.0;
    Ok(())
}

impl Books {
    fn picked(&mut self, key: String) -> anyhow::Result<usize> {
        let next = self.keys.len();
        let place = *self.keys.entry(key).or_insert(next);
        ensure!(place < KEYS, "more keys than there are");
        // Equal weights and one tier: only holders make a difference.
        let weights = self.holders.map(|holders| 1.0 / (1.0 + holders));
        self.places.add(&weights, place);
        self.picks[place] += 1;
        self.holders[place] += 1.0;
        Ok(place)
    }
}
