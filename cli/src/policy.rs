use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use key_server_core::ModelName;
use key_server_server::policy::{
    self, Ask, Decision, Denial, Ground, Limits, Policy, PolicyError, Source, Subject, Verb,
};
use key_server_server::users;
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::text::{counted, escape, thousands};
use crate::settings::{self, SettingsArgs};

const CHECK_EXAMPLES: &str = "\
Reads the policy file as `serve` and a reload would, and changes nothing.
Exit code 2: something is wrong; every problem is named with its line.

Examples:
  key-server policy check
  key-server policy check --file new_policy.toml";

const EXPLAIN_EXAMPLES: &str = "\
Says whether a caller may do something, and which rule decides. The groups of a
uid are those of the user database, unless --gid names some. Without a policy
file it answers by what holds then. The uid of the server matters, for it is let
in: it is asked of the running one. Exit code 1: it may not.

Examples:
  key-server policy explain --uid 1001 --verb select --model openai/gpt-4o
  key-server policy explain --uid 1001 --verb reload
  key-server policy explain --uid 1001 --executable /opt/gateway --verb select \\
    --model openai/gpt-4o --count 4";

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check the policy file
    #[command(after_help = CHECK_EXAMPLES)]
    Check(FileArgs),
    /// Say who may do what, and which rule decides
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// This file instead of the one that the settings name [env: KEY_SERVER_POLICY_FILE]
    #[arg(long, value_name = "TOML")]
    file: Option<PathBuf>,
    /// The uid that the server runs as; else that of the one that answers on the socket
    #[arg(long, value_name = "UID")]
    server_uid: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The caller
    #[arg(long)]
    uid: u32,
    /// The caller's groups, the first one first; may be repeated
    #[arg(long)]
    gid: Vec<u32>,
    /// The caller's program
    #[arg(long, value_name = "PATH")]
    executable: Option<String>,
    /// What it wants: select, track, release, stats, stats-all, release-all, reload
    #[arg(long, value_parser = verb)]
    verb: Verb,
    /// With --verb select: the models
    #[arg(long, value_name = "PROVIDER/MODEL", num_args = 1.., value_parser = model)]
    model: Vec<ModelName>,
    /// With --verb select: keys for each model
    #[arg(long, default_value_t = 1)]
    count: u32,
    #[command(flatten)]
    file: FileArgs,
}

fn verb(name: &str) -> Result<Verb, String> {
    let names = Verb::ALL.map(Verb::name).join(", ");
    Verb::named(name).ok_or_else(|| format!("there is no such verb; write one of {names}"))
}

fn model(name: &str) -> Result<ModelName, String> {
    name.parse().map_err(|error: key_server_core::IdError| error.to_string())
}

/// `key-server policy …`
pub(crate) fn run(
    command: PolicyCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Check(args) => check(&args, global, output),
        PolicyCommand::Explain(args) => explain(&args, global, output),
    }
}

/// What is wrong with a policy, a line for each problem.
pub(crate) fn failure(error: &PolicyError) -> Failure {
    let message = format!("the policy {} is wrong", error.path.display());
    let problems = error.problems.iter().map(ToString::to_string);
    problems.fold(Failure::usage(message), Failure::detail).hint("docs/policy.md has examples")
}

fn check(args: &FileArgs, global: &GlobalArgs, output: &mut Output) -> Result<Exit, Failure> {
    let (policy, _) = policy(args, global)?;
    let Source::File { path, rules } = &policy.source else {
        let message = "no policy file is set (policy_file); without one, keys are for root, for \
                       the server's uid and for the socket's owner and group";
        return Err(Failure::no(message).hint("docs/policy.md has examples"));
    };
    let warnings: Vec<_> = policy::shadowed(rules).iter().map(ToString::to_string).collect();
    if output.is_json() {
        let path = path.display().to_string();
        let rules: Value = rules.iter().map(|rule| json!(&*rule.name)).collect();
        let json = json!({ "ok": true, "file": path, "rules": rules, "warnings": warnings });
        output.json(&json)?;
    } else {
        warnings.iter().for_each(|warning| output.warn(warning));
        let count = counted(rules.len(), "rule", "rules");
        output.line(format!("ok: {count} in {}", escape(&path.display().to_string())))?;
    }
    Ok(Exit::Ok)
}

/// The uid that the server runs as, and whether somebody said so.
#[derive(Clone, Copy)]
struct ServerUid {
    uid: u32,
    is_guess: bool,
}

impl ServerUid {
    /// What `--server-uid` says, else what the running server is; without one
    /// it is taken to be the owner of its dead socket, or the caller.
    fn find(args: &FileArgs, global: &GlobalArgs, socket: Option<&Metadata>) -> Self {
        let running = || Server::connect(global).ok()?.runs_as();
        match args.server_uid.or_else(running) {
            Some(uid) => Self { uid, is_guess: false },
            None => {
                let uid = socket.map_or_else(|| geteuid().as_raw(), MetadataExt::uid);
                Self { uid, is_guess: true }
            }
        }
    }

    /// What to say of a guess.
    fn doubt(self) -> Option<String> {
        let who = match self.uid == geteuid().as_raw() {
            true => "you".to_owned(),
            false => format!("uid {}, the socket's owner", self.uid),
        };
        self.is_guess.then(|| {
            format!(
                "no trusted server answers; it is taken to run as {who}: --server-uid names another"
            )
        })
    }
}

/// As the server would read it.
fn policy(args: &FileArgs, global: &GlobalArgs) -> Result<(Policy, ServerUid), Failure> {
    let settings = settings::resolve(global, &SettingsArgs::default())?.settings;
    let socket = settings.socket.symlink_metadata().ok();
    let server = ServerUid::find(args, global, socket.as_ref());
    let file = args.file.clone().unwrap_or(settings.policy_file);
    let source = if file.as_os_str().is_empty() {
        let socket_uid = socket.as_ref().map(MetadataExt::uid);
        let socket = socket.filter(|socket| socket.mode() & 0o020 != 0);
        Source::None { socket_uid, socket_gid: socket.map(|socket| socket.gid()) }
    } else {
        let rules = policy::load(&file, server.uid).map_err(|error| {
            // Whose the file may be depends on who the server is.
            let is_of_whole_file = error.problems.iter().all(|problem| problem.line.is_none());
            let doubt = server.doubt().filter(|_| is_of_whole_file);
            doubt.into_iter().fold(failure(&error), Failure::hint)
        })?;
        Source::File { path: file, rules }
    };
    Ok((Policy { server_uid: server.uid, source }, server))
}

fn explain(args: &ExplainArgs, global: &GlobalArgs, output: &mut Output) -> Result<Exit, Failure> {
    let is_select = args.verb == Verb::Select;
    if is_select == args.model.is_empty() {
        let message = "--model goes with --verb select, and --verb select with --model";
        return Err(Failure::usage(message));
    }
    let (policy, server) = policy(&args.file, global)?;
    let (gid, groups) = match args.gid.split_first() {
        Some((gid, groups)) => (*gid, groups.to_vec()),
        // A uid that nobody knows has a group that nobody else is in.
        None => users::groups_of(args.uid).unwrap_or((args.uid, Vec::new())),
    };
    let executable = args.executable.as_deref();
    let subject = Subject { uid: args.uid, gid, groups: &groups, executable };
    let count = if is_select { args.count } else { 0 };
    let ask = Ask { verb: args.verb, models: &args.model, count };
    let decision = policy.decide(&subject, &ask);
    if output.is_json() {
        output.json(&as_json(&decision, &policy))?;
    } else {
        if let Some(doubt) = server.doubt() {
            output.note(&doubt);
        }
        let word = if decision.is_allowed() { "allowed" } else { "denied" };
        output.line(format!("{word}: {}", escape(&ground(&decision, &policy))))?;
        if let Some(denial) = &decision.denial {
            output.line(format!("  {}", escape(&why(denial, &ask))))?;
        }
        if let Ground::Rule(rule) = decision.ground
            && decision.is_allowed()
            && is_select
        {
            output.line(format!("  {}", limits(&rule.limits)))?;
        }
    }
    Ok(if decision.is_allowed() { Exit::Ok } else { Exit::No })
}

/// What decided, in words.
fn ground(decision: &Decision<'_, '_>, policy: &Policy) -> String {
    let file = match &policy.source {
        Source::File { path, .. } => path.display().to_string(),
        Source::None { .. } => String::new(),
    };
    match decision.ground {
        Ground::Rule(rule) => format!("rule {:?}, line {} of {file}", &*rule.name, rule.line),
        Ground::Operator => {
            let uid = policy.server_uid;
            format!("root and uid {uid}, which runs the server, may always look after it")
        }
        Ground::NoRule => format!("no rule of {file} fits the caller"),
        Ground::NoFile => "no policy file is set; keys are for root, for the server's uid and \
                           for the socket's owner and group"
            .to_owned(),
    }
}

fn why(denial: &Denial<'_>, ask: &Ask<'_>) -> String {
    match denial {
        Denial::Caller => "the caller may do nothing".to_owned(),
        Denial::Verb => format!("{} is not allowed to it", ask.verb.name()),
        Denial::Model(model) => format!("{model} is not allowed to it"),
        Denial::Count(max) => {
            format!("{} keys for each model are more than count_max = {max}", ask.count)
        }
    }
}

fn limits(limits: &Limits) -> String {
    let parts = [
        limits.count_max.map(|max| format!("{} for each model", counted(max, "key", "keys"))),
        limits.sessions_max.map(|max| format!("{} at once", counted(max, "session", "sessions"))),
        limits.keys_per_minute.map(|max| format!("{} keys a minute", thousands(max))),
        limits.tokens_per_minute.map(|max| format!("{} tokens a minute", thousands(max))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => "without limits".to_owned(),
        false => format!("at most {}", parts.join(", ")),
    }
}

fn as_json(decision: &Decision<'_, '_>, policy: &Policy) -> Value {
    let rule = match decision.ground {
        Ground::Rule(rule) => json!({ "name": &*rule.name, "line": rule.line }),
        _ => Value::Null,
    };
    let ground = match decision.ground {
        Ground::Rule(_) => "rule",
        Ground::Operator => "operator",
        Ground::NoRule => "no_rule",
        Ground::NoFile => "no_file",
    };
    let denied = match decision.denial {
        None => Value::Null,
        Some(Denial::Caller) => "caller".into(),
        Some(Denial::Verb) => "verb".into(),
        Some(Denial::Model(model)) => json!({ "model": model.as_str() }),
        Some(Denial::Count(max)) => json!({ "count_max": max }),
    };
    let file = match &policy.source {
        Source::File { path, .. } => path.display().to_string().into(),
        Source::None { .. } => Value::Null,
    };
    json!({
        "allowed": decision.is_allowed(),
        "decided_by": ground,
        "rule": rule,
        "denied": denied,
        "file": file,
        "server_uid": policy.server_uid,
    })
}
