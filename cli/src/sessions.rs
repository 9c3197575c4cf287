use clap::{Args, Subcommand};
use key_server_proto::v1::{
    Allocation, GetStatsRequest, ReleaseKeyRequest, SessionStats, StatsView,
};
use serde_json::Value;

use crate::args::GlobalArgs;
use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::facts::Facts;
use crate::output::table::{Cell, Column, Table};
use crate::output::text::counted;
use crate::output::{Output, Tone, time};
use crate::{json, keys, pages};

const LIST_EXAMPLES: &str = "\
Examples:
  key-server sessions list
  key-server sessions list --user 456 --json";

const SHOW_EXAMPLES: &str = "\
Examples:
  key-server sessions show session_123
  sudo key-server sessions show session_123 --owner-uid 1000";

const RELEASE_EXAMPLES: &str = "\
Releasing what is released already is fine.

Examples:
  key-server sessions release session_123
  key-server sessions release session_123 --model openai/gpt-4o
  sudo key-server sessions release session_123 --owner-uid 1000";

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List sessions
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Only sessions of this user
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        user: Option<i32>,
        /// All sessions, not only one screen of them
        #[arg(long)]
        all: bool,
    },
    /// Show one session with the keys it holds
    #[command(after_help = SHOW_EXAMPLES)]
    Show(SessionArgs),
    /// Take back a session's keys; without --key-id and --model this ends it
    #[command(after_help = RELEASE_EXAMPLES)]
    Release {
        #[command(flatten)]
        session: SessionArgs,
        /// Only this key
        #[arg(long, conflicts_with = "model")]
        key_id: Option<String>,
        /// Only the keys of this provider/model
        #[arg(long)]
        model: Option<String>,
    },
}

/// Which session.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// The session's id
    #[arg(value_name = "ID")]
    session_id: String,
    /// Whose session, when it is not yours
    #[arg(long, value_name = "UID")]
    owner_uid: Option<u32>,
}

/// `key-server sessions …`
pub(crate) fn run(
    command: SessionsCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        SessionsCommand::List { user, all } => {
            list(user, all, &mut Server::connect(global)?, output)
        }
        SessionsCommand::Show(session) => show(session, &mut Server::connect(global)?, output),
        SessionsCommand::Release { session, key_id, model } => {
            let key_id = key_id.as_deref().map(keys::read_id).transpose()?;
            let request = ReleaseKeyRequest {
                session_id: session.session_id,
                owner_uid: session.owner_uid,
                key_id: key_id.map_or(String::new(), |key_id| key_id.to_string()),
                model: model.unwrap_or_default(),
            };
            release(request, &mut Server::connect(global)?, output)
        }
    }
}

fn list(
    user: Option<i32>,
    all: bool,
    server: &mut Server,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let view = StatsView::Sessions.into();
    let request = GetStatsRequest { user_id: user, view, ..Default::default() };
    let rows_max = output.rows_max(all);
    let (sessions, more) = pages::rows(server, request, rows_max, |page| page.sessions)?;
    if output.is_json() {
        output.json(&sessions.iter().map(json::session).collect::<Value>())?;
    } else if sessions.is_empty() {
        output.note("no session matches");
    } else {
        output.table(&table(&sessions))?;
    }
    output.note_more(more, sessions.len());
    Ok(Exit::Ok)
}

const COLUMNS: [Column; 8] = [
    Column::left("SESSION").clip_middle(16),
    Column::right("OWNER"),
    Column::right("USER"),
    Column::right("KEYS HELD"),
    Column::right("TOKENS"),
    Column::right("REQUESTS").rank(2),
    Column::left("OPENED").rank(1),
    Column::left("ENDS"),
];

fn table(sessions: &[SessionStats]) -> Table {
    let now = time::now();
    let mut table = Table::new(&COLUMNS);
    for session in sessions {
        let opened = time::moment(session.opened_at.as_ref());
        let (tokens, requests) = spent(&session.allocations);
        table.row([
            Cell::from(&session.session_id),
            session.owner_uid.to_string().into(),
            session.user_id.to_string().into(),
            Cell::number(session.allocations.iter().filter(|one| one.held).count()),
            Cell::number(tokens),
            Cell::number(requests),
            opened.map_or(String::new(), |opened| time::relative(opened, now)).into(),
            end(session, now),
        ]);
    }
    table
}

/// When it ends, or that it has.
fn end(session: &SessionStats, now: jiff::Timestamp) -> Cell {
    if let Some(ended) = time::moment(session.ended_at.as_ref()) {
        return Cell::new(Tone::Faint, format!("ended {}", time::relative(ended, now)));
    }
    let expires = time::moment(session.expires_at.as_ref());
    expires.map_or(String::new(), |expires| time::relative(expires, now)).into()
}

/// Tokens and requests of all allocations.
fn spent(allocations: &[Allocation]) -> (i64, i64) {
    let usages = allocations.iter().filter_map(|allocation| allocation.usage.as_ref());
    usages.fold((0, 0), |(tokens, requests), usage| {
        (keys::tokens(usage).saturating_add(tokens), usage.requests.saturating_add(requests))
    })
}

fn show(args: SessionArgs, server: &mut Server, output: &mut Output) -> Result<Exit, Failure> {
    let request = GetStatsRequest {
        session_id: args.session_id.clone(),
        owner_uid: args.owner_uid,
        view: StatsView::Sessions.into(),
        ..Default::default()
    };
    let (sessions, _) = pages::rows(server, request, Some(1), |page| page.sessions)?;
    let Some(session) = sessions.first() else {
        return Err(Failure::no(format!("there is no session {}", args.session_id)));
    };
    if output.is_json() {
        output.json(&json::session(session))?;
        return Ok(Exit::Ok);
    }
    output.facts(&facts(session))?;
    if !session.allocations.is_empty() {
        output.line("")?;
        output.table(&allocations(&session.allocations))?;
    }
    Ok(Exit::Ok)
}

fn facts(session: &SessionStats) -> Facts {
    let now = time::now();
    let when = |sent| {
        let time = time::moment(sent)?;
        Some(format!("{} ({})", time::relative(time, now), time::second(time)))
    };
    let (tokens, requests) = spent(&session.allocations);
    let mut facts = Facts::default();
    facts.add("session", &session.session_id);
    facts.add("owner", format!("uid {}", session.owner_uid));
    facts.add("user", session.user_id.to_string());
    facts.add("opened", when(session.opened_at.as_ref()).unwrap_or_default());
    facts.add("ends", when(session.expires_at.as_ref()).unwrap_or_default());
    facts.add_in(Tone::Faint, "ended", when(session.ended_at.as_ref()).unwrap_or_default());
    let requests = counted(requests, "request", "requests");
    facts.add("spent", format!("{} in {requests}", counted(tokens, "token", "tokens")));
    facts
}

fn allocations(allocations: &[Allocation]) -> Table {
    let mut table = Table::new(&[
        Column::left("MODEL").clip_middle(14),
        Column::left("KEY"),
        Column::left("HELD"),
        Column::right("INPUT").rank(1),
        Column::right("OUTPUT").rank(1),
        Column::right("REQUESTS"),
        Column::right("FAILED").rank(2),
    ]);
    for allocation in allocations {
        let usage = allocation.usage.unwrap_or_default();
        let held =
            if allocation.held { Cell::from("yes") } else { Cell::new(Tone::Faint, "given back") };
        table.row([
            Cell::from(&allocation.model),
            Cell::from(&allocation.key_id),
            held,
            Cell::number(usage.input_tokens),
            Cell::number(usage.output_tokens),
            Cell::number(usage.requests),
            Cell::count(Tone::Warn, usage.failures),
        ]);
    }
    table
}

fn release(
    request: ReleaseKeyRequest,
    server: &mut Server,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let ends = request.key_id.is_empty() && request.model.is_empty();
    let session_id = request.session_id.clone();
    let released = server.release(request)?;
    if output.is_json() {
        output.json(&json::released(&released))?;
        return Ok(Exit::Ok);
    }
    let keys = match released.released {
        0 => "nothing was held any more".to_owned(),
        count => format!("{} given back", counted(count, "key was", "keys were")),
    };
    let session = crate::output::text::escape(&session_id).into_owned();
    output.line(if ends { format!("{keys}; session {session} has ended") } else { keys })?;
    Ok(Exit::Ok)
}
