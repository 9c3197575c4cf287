//! A select while Redis takes requests and answers none.

use std::time::Duration;

use key_server_testkit::client::Client;

use crate::clock::now;
use crate::figures::{compare, percentile};
use crate::fleet::Fleet;
use crate::load::at_rate;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, output};

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
        let quiet = p99_ms(client).await?;
        fleet.redis.freeze()?;
        let frozen = p99_ms(client).await;
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

async fn p99_ms(client: &Client) -> anyhow::Result<f64> {
    let select = |_| {
        let mut client = client.clone();
        async move {
            let begin = now();
            calls::select(&mut client, &calls::new_session()).await?;
            Ok(begin.elapsed())
        }
    };
    Ok(percentile(&at_rate(RATE, ROUND, select).await?, 99.0).as_secs_f64() * 1e3)
}
