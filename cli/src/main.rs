//! The `key-server` command: the daemon, and the operator's tools around it.
//!
//! One file per command. Data goes to standard output, everything else to
//! standard error; nothing but `select --reveal` ever shows a credential.

mod activation;
mod adapters;
mod args;
mod audit;
mod config;
mod connect;
mod failure;
mod health;
mod json;
mod keys;
mod logging;
mod models;
mod notify;
mod output;
mod pages;
mod place;
mod policy;
mod refusal;
mod reload;
mod sandbox;
mod select;
mod serve;
mod sessions;
mod settings;
mod since;
mod status;
mod store;
mod trust;
mod usage;
mod word;

use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory, FromArgMatches};

use args::{Cli, Command};
use connect::Server;
use failure::{Exit, Failure};
use output::Output;
use place::Environment;

/// Whatever library held a credential, in this process freed memory is wiped.
#[global_allocator]
static ALLOCATOR: key_server_sys::Wiping = key_server_sys::Wiping;

fn main() -> ExitCode {
    // Before anything is read that may be secret, the environment included.
    let protected = key_server_sys::protect();
    let cli = parse();
    let mut output = Output::new(cli.global.color, cli.global.json, &Environment::of_process());
    let protected = protected.map_err(|error| {
        Failure::usage(format!("this process cannot be kept from others' eyes: {error}"))
    });
    let ended = protected
        .and_then(|()| run(cli, &mut output))
        .and_then(|exit| output.flush().map(|()| exit));
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, output: &mut Output) -> Result<Exit, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(global, &args),
        Command::Config(command) => config::run(command, global, output),
        Command::Policy(command) => policy::run(command, global, output),
        Command::Audit(command) => audit::run(command, global, output),
        Command::Store(command) => store::run(command, global, output),
        Command::Usage(args) => usage::run(args, global, output),
        Command::Health => health::run(&mut Server::connect(global)?, output),
        Command::Status => status::run(&mut Server::connect(global)?, output),
        Command::Keys(command) => keys::run(command, global, output),
        Command::Models(command) => models::run(command, &mut Server::connect(global)?, output),
        Command::Sessions(command) => sessions::run(command, global, output),
        Command::Select(args) => select::run(args, &mut Server::connect(global)?, output),
        Command::Reload(args) => reload::run(args, &mut Server::connect(global)?, output),
    }
}

/// Reads the command line; ends the program when there is no command to run.
fn parse() -> Cli {
    let matches = Cli::command().color(color_of_help()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Help and usage errors come before the options are read: `--color` is looked
/// for by hand. `NO_COLOR` and terminals are looked after by clap.
fn color_of_help() -> ColorChoice {
    let args: Vec<_> = std::env::args_os().collect();
    let wants = |when: &str| {
        let joined = args.iter().any(|arg| *arg == *format!("--color={when}"));
        joined || args.windows(2).any(|pair| pair[0] == *"--color" && pair[1] == *when)
    };
    match () {
        () if wants("always") => ColorChoice::Always,
        () if wants("never") => ColorChoice::Never,
        () => ColorChoice::Auto,
    }
}
