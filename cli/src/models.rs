use clap::Subcommand;
use key_server_proto::v1::{GetStatsRequest, PoolStats, StatsView};
use serde_json::Value;

use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::table::{Cell, Column, Table};
use crate::output::{Output, Tone};
use crate::{json, pages};

const EXAMPLES: &str = "\
Examples:
  key-server models list
  key-server models list --provider anthropic --json";

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List models with the state of their keys
    #[command(after_help = EXAMPLES)]
    List {
        /// Only models of this provider
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        /// All models, not only one screen of them
        #[arg(long)]
        all: bool,
    },
}

/// `key-server models …`
pub(crate) fn run(
    command: ModelsCommand,
    server: &mut Server,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let ModelsCommand::List { provider, all } = command;
    let request = GetStatsRequest {
        provider: provider.unwrap_or_default(),
        view: StatsView::Pools.into(),
        ..Default::default()
    };
    let rows_max = output.rows_max(all);
    let (pools, more) = pages::rows(server, request, rows_max, |page| page.pools)?;
    if output.is_json() {
        output.json(&pools.iter().map(json::pool).collect::<Value>())?;
    } else if pools.is_empty() {
        output.note("no model matches");
    } else {
        output.table(&table(&pools))?;
    }
    output.note_more(more, pools.len());
    Ok(Exit::Ok)
}

const COLUMNS: [Column; 5] = [
    Column::left("MODEL").clip_middle(20),
    Column::right("KEYS"),
    Column::right("USABLE"),
    Column::right("COOLING"),
    Column::right("AT CAP"),
];

/// Pools below each other.
pub(crate) fn table(pools: &[PoolStats]) -> Table {
    let mut table = Table::new(&COLUMNS);
    for pool in pools {
        let usable = match pool.usable {
            0 => Cell::new(Tone::Bad, "0"),
            usable => Cell::number(usable),
        };
        table.row([
            Cell::from(name(pool)),
            Cell::number(pool.keys),
            usable,
            Cell::count(Tone::Warn, pool.cooling),
            Cell::count(Tone::Warn, pool.at_cap),
        ]);
    }
    table
}

fn name(pool: &PoolStats) -> String {
    format!("{}/{}", pool.provider, pool.model)
}
