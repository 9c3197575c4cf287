use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use key_server_server::config::SettingValue;

use crate::{
    audit, config, health, keys, models, policy, reload, select, serve, sessions, status, store,
    usage,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Cyan.on_default())
    .invalid(AnsiColor::Yellow.on_default());

const AFTER_HELP: &str = "\
Exit codes:
  0  ok
  1  the answer is no: refused, not found, not healthy, does not verify
  2  usage or configuration error
  3  the server cannot be reached

Data goes to standard output, everything else to standard error.
Colours follow --color, then NO_COLOR, then whether a terminal is there.

Examples:
  key-server status
  key-server keys list --provider openai
  key-server select --session demo --user 1 --model openai/gpt-4o
  key-server usage --by key --since 24h
  key-server audit verify";

/// Hands LLM providers' API keys to local processes, and remembers who holds
/// them and what they spent.
#[derive(Debug, Parser)]
#[command(
    name = "key-server",
    version,
    styles = STYLES,
    after_help = AFTER_HELP,
    max_term_width = 100,
    propagate_version = false,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The server's socket: a path, or unix:PATH [env: KEY_SERVER_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<String>,
    /// The settings file [env: KEY_SERVER_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long to wait for each answer of the server
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = wait)]
    pub(crate) timeout: Duration,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Tell in one line how the server is; for probes
    #[command(after_help = health::EXAMPLES)]
    Health,
    /// Show the server on one screen
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Look at keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Look at models and their pools of keys
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Look at sessions, and end them
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Show what was spent, from the local database
    #[command(after_help = usage::EXAMPLES)]
    Usage(usage::UsageArgs),
    /// Take keys for a session, as an application does
    #[command(after_help = select::EXAMPLES)]
    Select(select::SelectArgs),
    /// Make the server read its policy and its CSV again
    #[command(after_help = reload::EXAMPLES)]
    Reload(reload::ReloadArgs),
    /// Read and check the ledger
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Move keys between secret stores
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Check the policy, and ask it who may do what
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

fn wait(text: &str) -> Result<Duration, String> {
    match Duration::read(text)? {
        Duration::ZERO => Err("write a time above 0".to_owned()),
        time => Ok(time),
    }
}
