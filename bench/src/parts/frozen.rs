//! A select while Redis takes requests and answers none.

use std::time::Duration;

use crate::figures::compare;
use crate::fleet::Fleet;
use crate::load::select_p99_ms;
use crate::row::{Goal, Row, Unit};
use crate::{Place, output};

const KEYS: usize = 1_000;
const RATE: f64 = 300.0;
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(5);

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let fleet = Fleet::start(place, 1, KEYS).await?;
    let client = &fleet.nodes[0].daemon.client;
    let mut rounds = Vec::new();
    let count = place.count(ROUNDS);
    output::progress(&format!("  Redis stopped and not, {count} rounds of {ROUND:?} each"));
    for _ in 0..count {
        let quiet = select_p99_ms(client, RATE, ROUND).await?;
        fleet.redis.freeze()?;
        let frozen = select_p99_ms(client, RATE, ROUND).await;
        fleet.redis.thaw()?;
        rounds.push((frozen?, quiet));
        fleet.nodes[0].settle(&fleet.redis).await?;
    }
    fleet.stop()?;
    let compared = compare(&rounds);
    Ok(vec![Row {
        what: "select p99 while Redis is frozen ÷ quiet, 300/s",
        goal: Goal::AtMost(2.0),
        measured: compared.ratio,
        unit: Unit::Ratio,
        details: format!("{:.2} ms, quiet {:.2} ms", compared.first, compared.second),
    }])
}
