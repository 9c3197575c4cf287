//! Start with keys in Vault.

use anyhow::{Context, ensure};
use key_server_testkit::process::Home;
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::figures::median;
use crate::row::{Goal, Row, Unit};
use crate::{Place, daemon, output, process};

const KEYS: usize = 10_000;
const STARTS: usize = 5;
/// The policy that the page names as the least.
const PAGE: &str = include_str!("../../../docs/vault.md");

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    VaultServer::find().map_err(anyhow::Error::msg)?;
    let keys = place.count(KEYS);
    let vault = VaultServer::dev().await;
    let token = vault.token(least_policy()?, "24h", "").await;
    let home =
        daemon::home(place, keys)?.with("VAULT_ADDR", vault.address()).with("VAULT_TOKEN", token);
    let address = vault.address();
    let listens = format!("-dev-listen-address={}", address.trim_start_matches("http://"));
    let vault_pid = process::find("vault", &listens)?;
    output::progress(&format!("  import of {keys} keys"));
    let import = started_in(&home, keys, vault_pid).await?;
    let mut starts = Vec::new();
    for round in 1..=STARTS {
        output::progress(&format!("  start {round} of {STARTS}"));
        starts.push(started_in(&home, keys, vault_pid).await?);
    }
    output::progress("  start with Vault's audit log");
    let asked = audited(&vault, vault_pid, &home, keys).await?;
    Ok(rows(&import, &starts, &asked))
}

/// How long until the first answer.
struct Start {
    seconds: f64,
    /// Processor time of the daemon until then.
    cpu: f64,
    /// And of Vault meanwhile.
    vault_cpu: f64,
}

/// Requests of one start for what Vault keeps, and those that change it.
struct Asked {
    all: usize,
    writes: usize,
}

fn rows(import: &Start, starts: &[Start], asked: &Asked) -> Vec<Row> {
    let of = |figure: fn(&Start) -> f64| median(&starts.iter().map(figure).collect::<Vec<_>>());
    let row = |what, goal, unit, measured, details| Row { what, goal, measured, unit, details };
    vec![
        row(
            "start, 10,000 keys in Vault, CSV unchanged",
            Goal::AtMost(5.0),
            Unit::Seconds,
            of(|start| start.seconds),
            format!(
                "median of {STARTS}, best {:.2} s; processor time of the daemon {:.2} s, of Vault {:.2} s; {} requests",
                starts.iter().map(|start| start.seconds).fold(f64::INFINITY, f64::min),
                of(|start| start.cpu),
                of(|start| start.vault_cpu),
                asked.all
            ),
        ),
        row(
            "writes to Vault at that start",
            Goal::AtMost(0.0),
            Unit::Count,
            asked.writes as f64,
            "by Vault's audit log".to_owned(),
        ),
        row(
            "first import of 10,000 keys into Vault",
            Goal::None,
            Unit::Seconds,
            import.seconds,
            format!(
                "processor time of the daemon {:.2} s, of Vault {:.2} s",
                import.cpu, import.vault_cpu
            ),
        ),
    ]
}

async fn started_in(home: &Home, keys: usize, vault_pid: u32) -> anyhow::Result<Start> {
    let before = process::cpu_in_all(vault_pid)?;
    let mut daemon = daemon::start(home).await?;
    let served = daemon.health().await?.keys;
    ensure!(served == keys as i64, "it serves {served} keys instead of {keys}");
    let vault_cpu = process::cpu_in_all(vault_pid)?.saturating_sub(before).as_secs_f64();
    let (seconds, cpu) = (daemon.started_in.as_secs_f64(), daemon.started_cpu.as_secs_f64());
    let start = Start { seconds, cpu, vault_cpu };
    daemon.stop()?;
    Ok(start)
}

/// What one more start asks of Vault, as Vault itself writes it down.
async fn audited(
    vault: &VaultServer,
    vault_pid: u32,
    home: &Home,
    keys: usize,
) -> anyhow::Result<Asked> {
    let log = vault.path().join("audit.log");
    let options = json!({ "type": "file", "options": { "file_path": log } });
    vault.admin(Method::PUT, "sys/audit/file", options).await;
    started_in(home, keys, vault_pid).await?;
    vault.admin(Method::DELETE, "sys/audit/file", Value::Null).await;
    let (mut asked, log) = (Asked { all: 0, writes: 0 }, std::fs::read_to_string(log)?);
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line)?;
        let path = entry["request"]["path"].as_str().unwrap_or_default();
        if entry["type"] == "request" && path.starts_with("secret/") {
            let reads = ["read", "list"].map(Value::from);
            asked.all += 1;
            asked.writes += usize::from(!reads.contains(&entry["request"]["operation"]));
        }
    }
    ensure!(asked.all > keys, "the audit log has {} requests only", asked.all);
    Ok(asked)
}

/// For KV version 2.
fn least_policy() -> anyhow::Result<&'static str> {
    let policy = PAGE.split("```hcl\n").nth(1).and_then(|rest| rest.split("```").next());
    policy.context("docs/vault.md has no policy")
}
