use key_server_proto::v1::{
    GetStatsRequest, HealthResponse, NodeTotals, PoolStats, StatsView, Totals,
};
use serde_json::{Value, json};

use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::table::{Cell, Column, Table};
use crate::output::text::{counted, escape, thousands, wrap};
use crate::output::{Output, Tone, time};
use crate::{health, json, models, pages, word};

pub(crate) const EXAMPLES: &str = "\
Exit codes as of `key-server health`. Pools and totals are shown to operators
(root and the server's own user).

Examples:
  key-server status
  key-server status --json | jq .pools
  watch --color key-server status --color always";

/// Pools on one screen when nobody says how large it is.
const POOLS_SHOWN: usize = 20;
/// Lines of the screen that are not pools, about.
const OTHER_LINES: usize = 16;

/// What operators see of the whole node.
struct Node {
    pools: Vec<PoolStats>,
    totals: Totals,
    /// Each node's part; none when this one works alone.
    nodes: Vec<NodeTotals>,
}

/// `key-server status`
pub(crate) fn run(server: &mut Server, output: &mut Output) -> Result<Exit, Failure> {
    let health = server.health()?;
    let node = node(server);
    if output.is_json() {
        output.json(&as_json(&health, node.as_ref().ok()))?;
        if let Err(failure) = node {
            not_shown(&failure, output)?;
        }
        return Ok(health::exit(&health));
    }
    head(&health, server, output)?;
    if health::tells_all(&health) {
        backends(&health, output)?;
    }
    notes(&health, output)?;
    match node {
        Ok(node) => {
            nodes(&health, &node.nodes, output)?;
            pools(node.pools, output)?;
            totals(&node.totals, output)?;
        }
        Err(failure) => not_shown(&failure, output)?,
    }
    Ok(health::exit(&health))
}

fn not_shown(failure: &Failure, output: &mut Output) -> Result<(), Failure> {
    output.flush()?;
    output.note(&format!("pools and totals are not shown: {}", failure.message));
    Ok(())
}

fn node(server: &mut Server) -> Result<Node, Failure> {
    let view = StatsView::Pools.into();
    let request = GetStatsRequest { view, by_node: true, ..Default::default() };
    let mut node = Node { pools: Vec::new(), totals: Totals::default(), nodes: Vec::new() };
    pages::each(server, request, |page| {
        node.pools.extend(page.pools);
        node.totals = page.totals.unwrap_or_default();
        node.nodes = page.nodes;
        Ok(pages::Next::Page)
    })?;
    Ok(node)
}

fn as_json(health: &HealthResponse, node: Option<&Node>) -> Value {
    let pools = node.map(|node| node.pools.iter().map(json::pool).collect::<Value>());
    let totals = node.map(|node| json::totals(&node.totals));
    let nodes = node.map(|node| node.nodes.iter().map(json::node_totals).collect::<Value>());
    json!({ "health": json::health(health), "pools": pools, "totals": totals, "nodes": nodes })
}

fn head(health: &HealthResponse, server: &Server, output: &mut Output) -> Result<(), Failure> {
    let (paint, status) = (output.paint(), word::health(health.status()));
    let uptime = time::span(health.uptime.as_ref()).map(time::long);
    let uptime = uptime.map_or(String::new(), |uptime| format!("  up {uptime}"));
    let version = format!("key-server {}", escape(&health.version));
    output.line(format!(
        "{} {}{uptime}",
        paint.text(word::state_tone(status), &format!("● {status}")),
        paint.text(Tone::Strong, &version),
    ))?;
    if !health::tells_all(health) {
        let place =
            format!("  socket {} · durability {}", server.socket().display(), health.durability);
        return output.line(paint.text(Tone::Faint, &escape(&place)));
    }
    let (node, pid, socket) = (&health.node_id, health.pid, server.socket().display());
    let place = format!("  node {node} · pid {pid} · socket {socket}");
    output.line(paint.text(Tone::Faint, &escape(&place)))?;
    let (position, durability) = (thousands(health.ledger_position), &health.durability);
    let ledger = format!("  ledger at {position} · durability {durability}");
    output.line(paint.text(Tone::Faint, &escape(&ledger)))
}

fn backends(health: &HealthResponse, output: &mut Output) -> Result<(), Failure> {
    let now = time::now();
    let mut table = Table::new(&[
        Column::left("BACKEND").clip_end(20),
        Column::left("STATE"),
        Column::left("SINCE"),
    ]);
    for backend in &health.backends {
        let since = time::moment(backend.since.as_ref());
        let since = since.map_or(String::new(), |since| time::relative(since, now));
        let state = Cell::new(word::state_tone(&backend.state), &backend.state);
        table.row([Cell::from(&backend.name), state, since.into()]);
        if !backend.last_error.is_empty() {
            let tone = if backend.state == "ok" { Tone::Faint } else { Tone::Bad };
            table.remark(tone, &format!("last error: {}", backend.last_error));
        }
    }
    output.line("")?;
    output.table(&table)
}

/// Each node's part, where several work together.
fn nodes(
    health: &HealthResponse,
    nodes: &[NodeTotals],
    output: &mut Output,
) -> Result<(), Failure> {
    if nodes.len() < 2 {
        return Ok(());
    }
    let mut table = Table::new(&[
        Column::left("NODE"),
        Column::right("SESSIONS"),
        Column::right("TOKENS 1H"),
        Column::right("REQUESTS"),
        Column::left("SEEN"),
    ]);
    for node in nodes {
        let seen = health.nodes.iter().find(|other| other.node_id == node.node_id);
        let seen = match seen.and_then(|other| time::span(other.silent_for.as_ref())) {
            Some(silent) => format!("{} ago", time::long(silent)),
            None if node.node_id == health.node_id => "this node".to_owned(),
            None => "?".to_owned(),
        };
        table.row([
            Cell::from(&node.node_id),
            thousands(node.sessions_live).into(),
            thousands(node.window_tokens).into(),
            thousands(node.lifetime.unwrap_or_default().requests).into(),
            seen.into(),
        ]);
    }
    output.line("")?;
    output.table(&table)
}

fn notes(health: &HealthResponse, output: &mut Output) -> Result<(), Failure> {
    if health.notes.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let columns = output.width().map_or(usize::MAX, |width| width - 2);
    for note in &health.notes {
        for (index, line) in wrap(&escape(note), columns).iter().enumerate() {
            let mark = if index == 0 { "!" } else { " " };
            let mark = output.paint().text(Tone::Warn, mark).into_owned();
            output.line(format!("{mark} {line}"))?;
        }
    }
    Ok(())
}

/// Pools that need a look first; as many as fit.
fn pools(mut pools: Vec<PoolStats>, output: &mut Output) -> Result<(), Failure> {
    if pools.is_empty() {
        return Ok(());
    }
    let rows_max =
        output.height().map_or(POOLS_SHOWN, |height| height.saturating_sub(OTHER_LINES).max(5));
    let beyond = pools.len().saturating_sub(rows_max);
    if beyond > 0 {
        pools.sort_by_key(|pool| (pool.usable > 0, pool.usable == pool.keys));
        pools.truncate(rows_max);
    }
    output.line("")?;
    output.table(&models::table(&pools))?;
    if beyond > 0 {
        let rest =
            format!("and {}: key-server models list", counted(beyond, "more model", "more models"));
        output.line(output.paint().text(Tone::Faint, &rest))?;
    }
    Ok(())
}

fn totals(totals: &Totals, output: &mut Output) -> Result<(), Failure> {
    let lifetime = totals.lifetime.unwrap_or_default();
    let tokens = lifetime.input_tokens.saturating_add(lifetime.output_tokens);
    let lines = [
        format!(
            "{} for {}, {} live",
            counted(totals.keys, "key", "keys"),
            counted(totals.models, "model", "models"),
            counted(totals.sessions_live, "session", "sessions"),
        ),
        format!(
            "{} in the last hour, {} in all ({} in, {} out), {}, {} failed",
            counted(totals.window_tokens, "token", "tokens"),
            thousands(tokens),
            thousands(lifetime.input_tokens),
            thousands(lifetime.output_tokens),
            counted(lifetime.requests, "request", "requests"),
            thousands(lifetime.failures),
        ),
    ];
    output.line("")?;
    let columns = output.width().unwrap_or(usize::MAX);
    lines.iter().flat_map(|line| wrap(line, columns)).try_for_each(|line| output.line(line))
}
