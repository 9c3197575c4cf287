use clap::{Args, Subcommand};
use key_server_core::{IdError, KeyId};
use key_server_proto::v1::{GetStatsRequest, KeyState, KeyStats, StatsView, Usage};
use serde_json::Value;

use crate::args::GlobalArgs;
use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::facts::Facts;
use crate::output::table::{Cell, Column, Table};
use crate::output::text::{counted, thousands};
use crate::output::{Output, time};
use crate::{json, pages, word};

const LIST_EXAMPLES: &str = "\
On a terminal one screen of keys is shown unless --all is given; into pipes and
files, and with --json, all are.

Examples:
  key-server keys list --provider openai
  key-server keys list --model openai/gpt-4o
  key-server keys list --json | jq -r '.[] | select(.state == \"cooling\").key_id'";

const SHOW_EXAMPLES: &str = "\
Examples:
  key-server keys show k_2yf5mhnaxg3vkzqbwc4sdtj7";

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List keys with their state and what they spent
    #[command(after_help = LIST_EXAMPLES)]
    List(KeysListArgs),
    /// Show all that is known of one key, without its secret
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The key's id
        #[arg(value_name = "KEY_ID")]
        key_id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeysListArgs {
    /// Only keys of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only keys that serve this provider/model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only keys that sessions of this user hold or held
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    user: Option<i32>,
    /// Only keys that this session holds or held
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// With --session: whose session, when it is not yours
    #[arg(long, value_name = "UID", requires = "session")]
    owner_uid: Option<u32>,
    /// All keys, not only one screen of them
    #[arg(long)]
    all: bool,
}

/// Reads a key's id. What is none is not repeated: it may be a misplaced secret.
pub(crate) fn read_id(text: &str) -> Result<KeyId, Failure> {
    text.parse().map_err(|error: IdError| {
        Failure::usage(error.to_string()).hint("`key-server keys list` shows the ids")
    })
}

/// `key-server keys …`
pub(crate) fn run(
    command: KeysCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        KeysCommand::List(args) => list(args, &mut Server::connect(global)?, output),
        KeysCommand::Show { key_id } => {
            let key_id = read_id(&key_id)?;
            show(key_id, &mut Server::connect(global)?, output)
        }
    }
}

fn list(args: KeysListArgs, server: &mut Server, output: &mut Output) -> Result<Exit, Failure> {
    let rows_max = output.rows_max(args.all);
    let request = GetStatsRequest {
        provider: args.provider.unwrap_or_default(),
        model: args.model.unwrap_or_default(),
        user_id: args.user,
        session_id: args.session.unwrap_or_default(),
        owner_uid: args.owner_uid,
        view: StatsView::Keys.into(),
        ..Default::default()
    };
    let (keys, more) = pages::rows(server, request, rows_max, |page| page.keys)?;
    if output.is_json() {
        output.json(&keys.iter().map(json::key).collect::<Value>())?;
    } else if keys.is_empty() {
        output.note("no key matches");
    } else {
        output.table(&table(&keys))?;
    }
    output.note_more(more, keys.len());
    Ok(Exit::Ok)
}

const COLUMNS: [Column; 11] = [
    Column::left("KEY"),
    Column::left("LABEL").clip_end(8).rank(4),
    Column::left("MODELS").clip_middle(14),
    Column::left("STATE"),
    Column::left("TIER").rank(3),
    Column::right("WEIGHT").rank(7),
    Column::right("HOLDERS").rank(1),
    Column::right("1H TOKENS").rank(0),
    Column::right("ALL TOKENS").rank(6),
    Column::right("REQUESTS").rank(8),
    Column::left("LAST USED").rank(5),
];

fn table(keys: &[KeyStats]) -> Table {
    let now = time::now();
    let mut table = Table::new(&COLUMNS);
    for key in keys {
        let lifetime = key.lifetime.unwrap_or_default();
        let last_used = time::moment(key.last_used_at.as_ref());
        table.row([
            Cell::from(&key.key_id),
            Cell::from(&key.label),
            models(key).into(),
            Cell::new(word::key_state_tone(key.state()), state(key, now)),
            word::tier(key.tier()).into(),
            format!("{:.1}", key.weight).into(),
            holders(key).into(),
            Cell::number(key.window_tokens),
            Cell::number(tokens(&lifetime)),
            Cell::number(lifetime.requests),
            last_used.map_or("never".to_owned(), |last| time::relative(last, now)).into(),
        ]);
    }
    table
}

/// The first model, and how many more.
fn models(key: &KeyStats) -> String {
    match &key.models[..] {
        [] => key.provider.clone(),
        [model] => model.clone(),
        [model, more @ ..] => format!("{model} +{}", more.len()),
    }
}

fn state(key: &KeyStats, now: jiff::Timestamp) -> String {
    let until =
        time::moment(key.cooling_until.as_ref()).filter(|_| key.state() == KeyState::Cooling);
    let state = word::key_state(key.state()).replace('_', " ");
    match until {
        Some(until) => format!("{state} {}", time::relative(until, now).trim_start_matches("in ")),
        None => state,
    }
}

fn holders(key: &KeyStats) -> String {
    match key.max_holders {
        0 => thousands(key.holders),
        max => format!("{}/{}", thousands(key.holders), thousands(max)),
    }
}

/// Input and output tokens; cached ones are part of the input.
pub(crate) fn tokens(usage: &Usage) -> i64 {
    usage.input_tokens.saturating_add(usage.output_tokens)
}

fn show(key_id: KeyId, server: &mut Server, output: &mut Output) -> Result<Exit, Failure> {
    let key_id_text = key_id.to_string();
    let request = GetStatsRequest { key_id: key_id_text, by_node: true, ..Default::default() };
    let (keys, _) = pages::rows(server, request, Some(1), |page| page.keys)?;
    let Some(key) = keys.first() else {
        return Err(Failure::no(format!("there is no key {key_id}")));
    };
    if output.is_json() {
        output.json(&json::key(key))?;
    } else {
        output.facts(&facts(key))?;
    }
    Ok(Exit::Ok)
}

fn facts(key: &KeyStats) -> Facts {
    let now = time::now();
    let when = |sent| {
        let time = time::moment(sent)?;
        Some(format!("{} ({})", time::relative(time, now), time::second(time)))
    };
    let lifetime = key.lifetime.unwrap_or_default();
    let mut facts = Facts::default();
    facts.add("key", &key.key_id);
    facts.add("label", &key.label);
    facts.add("provider", &key.provider);
    facts.add_list("models", &key.models);
    let state = word::key_state(key.state()).replace('_', " ");
    facts.add_in(word::key_state_tone(key.state()), "state", state);
    facts.add("usable again", when(key.cooling_until.as_ref()).unwrap_or_default());
    facts.add("tier", word::tier(key.tier()));
    facts.add("weight", format!("{:.1} (its own: {})", key.weight, key.own_weight));
    let cap = if key.max_holders == 0 { " (no cap)" } else { " live sessions" };
    facts.add("holders", format!("{}{cap}", holders(key).replace('/', " of ")));
    facts.add("last hour", counted(key.window_tokens, "token", "tokens"));
    facts.add_list("in all", &spent(&lifetime));
    facts.add("last used", when(key.last_used_at.as_ref()).unwrap_or("never".to_owned()));
    facts.add("listed by", key.sources.join(", "));
    facts.add_list("by node", &by_node(key));
    facts
}

/// Each node's part; nothing when one works alone.
fn by_node(key: &KeyStats) -> Vec<String> {
    let nodes = key.nodes.iter().map(|node| {
        let lifetime = node.lifetime.unwrap_or_default();
        format!(
            "{}: {} in the last hour, {} in all, {}",
            node.node_id,
            counted(node.window_tokens, "token", "tokens"),
            thousands(tokens(&lifetime)),
            counted(lifetime.requests, "request", "requests"),
        )
    });
    nodes.collect()
}

fn spent(usage: &Usage) -> [String; 2] {
    [
        format!(
            "{} ({} in, {} of them cached; {} out)",
            counted(tokens(usage), "token", "tokens"),
            thousands(usage.input_tokens),
            thousands(usage.cached_input_tokens),
            thousands(usage.output_tokens),
        ),
        format!(
            "{}, {} failed",
            counted(usage.requests, "request", "requests"),
            thousands(usage.failures)
        ),
    ]
}
