//! Starts with 100,000 keys: from their CSV, and from the store.

use anyhow::ensure;
use key_server_testkit::process::Home;

use crate::figures::median;
use crate::row::{Goal, Row, Unit};
use crate::{Place, daemon, output};

const KEYS: usize = 100_000;
const ROUNDS: usize = 5;

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut imports = Vec::new();
    let mut home = daemon::home(place, KEYS)?;
    for round in 1..=ROUNDS {
        output::progress(&format!("  import, round {round} of {ROUNDS}"));
        home = daemon::home(place, KEYS)?;
        imports.push(started_in(&home).await?);
    }
    let with_csv = starts(&home, "store and CSV").await?;
    std::fs::remove_file(home.path().join("api_keys.csv"))?;
    let alone = starts(&home, "store alone").await?;
    Ok(vec![
        row("start, 100,000 keys in the age store", Goal::AtMost(1.0), &alone),
        row("the same, with their CSV read again", Goal::None, &with_csv),
        row("import of a CSV of 100,000 rows, to first answer", Goal::AtMost(5.0), &imports),
    ])
}

/// Real time and processor time, in seconds.
type Times = Vec<(f64, f64)>;

async fn starts(home: &Home, what: &str) -> anyhow::Result<Times> {
    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        output::progress(&format!("  {what}, round {round} of {ROUNDS}"));
        times.push(started_in(home).await?);
    }
    Ok(times)
}

async fn started_in(home: &Home) -> anyhow::Result<(f64, f64)> {
    let mut daemon = daemon::start(home).await?;
    let keys = daemon.health().await?.keys;
    ensure!(keys == KEYS as i64, "it serves {keys} keys instead of {KEYS}");
    let times = (daemon.started_in.as_secs_f64(), daemon.started_cpu.as_secs_f64());
    daemon.stop()?;
    Ok(times)
}

fn row(what: &'static str, goal: Goal, times: &[(f64, f64)]) -> Row {
    let (seconds, cpu): (Vec<f64>, Vec<f64>) = times.iter().copied().unzip();
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let details = format!("best of {ROUNDS}: {best:.2} s; processor time {:.2} s", median(&cpu));
    Row { what, goal, measured: median(&seconds), unit: Unit::Seconds, details }
}
