//! Whether the size of the pool is felt: two daemons, in turns.

use std::time::Duration;

use crate::figures::compare;
use crate::load::{Deed, Target};
use crate::row::{Goal, Row, Unit};
use crate::{Place, daemon, output};

const ROUNDS: usize = 60;
const ROUND: Duration = Duration::from_millis(250);
const LARGE: usize = 100_000;
const SMALL: usize = 10;

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let large_home = daemon::home(place, LARGE)?;
    let small_home = daemon::home(place, SMALL)?;
    let large_daemon = daemon::start(&large_home).await?;
    let small_daemon = daemon::start(&small_home).await?;
    let large = Target::connect(&large_home.socket(), large_daemon.server.pid()).await?;
    let small = Target::connect(&small_home.socket(), small_daemon.server.pid()).await?;
    output::progress(&format!("  {ROUNDS} rounds"));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let large = large.load(Deed::Select, 1, ROUND).await?.p50_ms;
        rounds.push((large, small.load(Deed::Select, 1, ROUND).await?.p50_ms));
    }
    drop((large, small));
    large_daemon.stop()?;
    small_daemon.stop()?;
    let compared = compare(&rounds);
    Ok(vec![Row {
        what: "select p50, 100,000 keys in the pool ÷ 10",
        goal: Goal::AtMost(1.1),
        measured: compared.ratio,
        unit: Unit::Ratio,
        details: format!("{:.3} ms, {:.3} ms", compared.first, compared.second),
    }])
}
