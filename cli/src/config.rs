use clap::{Args, Subcommand};
use key_server_server::config::{self, Origin, Shown, Sources};
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::output::table::{Cell, Column, Table};
use crate::output::text::{counted, escape};
use crate::output::{Output, Tone};
use crate::place;
use crate::settings::{self, Resolved, SettingsArgs};

const CHECK_EXAMPLES: &str = "\
Checks flags, environment and settings file as `serve` would, and starts
nothing. Exit code 2: something is wrong; every problem is named.

Examples:
  key-server config check
  key-server config check --config new.toml
  key-server config check --set session_ttl=2h";

const SHOW_EXAMPLES: &str = "\
What is printed without --origin is a settings file.

Examples:
  key-server config show > config.toml
  key-server config show --origin
  key-server config show --json | jq '.settings[] | select(.origin != \"default\")'";

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration
    #[command(after_help = CHECK_EXAMPLES)]
    Check(SettingsArgs),
    /// Show every setting as it is in force
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Print the reference page of all settings (docs/settings.md)
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Where each value comes from: flag, environment, file or default
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// `key-server config …`
pub(crate) fn run(
    command: ConfigCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check(args) => check(&args, global, output),
        ConfigCommand::Show(args) => show(&args, global, output),
        ConfigCommand::Reference => reference(output),
    }
}

fn check(args: &SettingsArgs, global: &GlobalArgs, output: &mut Output) -> Result<Exit, Failure> {
    let resolved = resolve(args, global, output)?;
    resolved.state_dir()?;
    let set = resolved.shown.iter().filter(|one| one.origin != Origin::Default).count();
    let file = match &resolved.file {
        Some(file) => format!("settings file {}", file.display()),
        None => "no settings file".to_owned(),
    };
    if output.is_json() {
        let file = resolved.file.as_ref().map(|file| file.display().to_string());
        output.json(&json!({ "ok": true, "file": file, "warnings": resolved.warnings }))?;
    } else {
        let all = counted(resolved.shown.len(), "setting", "settings");
        output.line(format!("ok: {all}, {set} not at the default; {}", escape(&file)))?;
    }
    Ok(Exit::Ok)
}

/// Resolves, and says what was ignored.
fn resolve(
    args: &SettingsArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Resolved, Failure> {
    let resolved = settings::resolve(global, args)?;
    resolved.warnings.iter().for_each(|warning| output.warn(warning));
    Ok(resolved)
}

fn show(args: &ShowArgs, global: &GlobalArgs, output: &mut Output) -> Result<Exit, Failure> {
    let resolved = resolve(&args.settings, global, output)?;
    let files = files(&resolved);
    if output.is_json() {
        output.json(&as_json(&resolved, &files))?;
    } else if args.origin {
        output.table(&table(&resolved.shown))?;
    } else {
        for one in &resolved.shown {
            output.line(format!("{} = {}", one.name, toml_value(value(one))))?;
        }
        output.line("\n# files of this node")?;
        let names = files.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, path) in &files {
            output.line(format!("# {name:names$}  {}", escape(path)))?;
        }
    }
    Ok(Exit::Ok)
}

/// Where this node's files lie; none when no directory is known.
fn files(resolved: &Resolved) -> Vec<(&'static str, String)> {
    let Ok(state_dir) = resolved.state_dir() else { return Vec::new() };
    let identity = place::identity_file(&resolved.settings, &resolved.environment, &state_dir);
    let files = [
        ("node id", place::node_id(&state_dir)),
        ("ledger", place::ledger_dir(&state_dir)),
        ("database", place::database(&state_dir)),
        ("secret store", place::secret_store(&state_dir)),
        ("identity", identity),
    ];
    files.map(|(name, path)| (name, path.display().to_string())).into()
}

fn table(shown: &[Shown]) -> Table {
    let mut table = Table::new(&[
        Column::left("SETTING"),
        Column::left("VALUE").clip_end(16),
        Column::left("ORIGIN").clip_middle(11),
    ]);
    for one in shown {
        let tone = if one.origin == Origin::Default { Tone::Faint } else { Tone::Strong };
        let value = if value(one).is_empty() { "\"\"" } else { value(one) };
        table.row([
            one.name.into(),
            Cell::new(tone, value),
            Cell::new(tone, one.origin.to_string()),
        ]);
    }
    table
}

fn as_json(resolved: &Resolved, files: &[(&str, String)]) -> Value {
    let settings = resolved.shown.iter().map(|one| {
        let origin = match &one.origin {
            Origin::File(_) => "file".to_owned(),
            origin => origin.to_string(),
        };
        json!({
            "name": one.name,
            "value": value(one),
            "origin": origin,
            "variable": one.variable,
            "default": one.default,
        })
    });
    let files = files.iter().map(|(name, path)| (name.replace(' ', "_"), json!(path)));
    json!({
        "file": resolved.file.as_ref().map(|file| file.display().to_string()),
        "settings": settings.collect::<Value>(),
        "files": files.collect::<serde_json::Map<_, _>>(),
    })
}

/// As it is written where it comes from, for defaults: `24h`, not `1d`.
fn value(one: &Shown) -> &str {
    if one.origin == Origin::Default { one.default } else { &one.value }
}

/// A number as it is, everything else in quotes.
fn toml_value(value: &str) -> String {
    match value.parse::<i64>() {
        Ok(number) if number.to_string() == value => value.to_owned(),
        _ => toml::Value::from(value).to_string(),
    }
}

const REFERENCE_HEAD: &str = "\
# Settings

<!-- Made by `key-server config reference`; do not edit. -->

A setting is read from the command line, else the environment, else the settings
file, else its default. The settings file is TOML, a name and a value a line: the
one that `--config` or `KEY_SERVER_CONFIG` names, else
`$XDG_CONFIG_HOME/key-server/config.toml` (`~/.config/key-server/config.toml`),
else `/etc/key-server/config.toml`. On the command line, `key-server serve` takes
`--socket`, `--keys`, `--state-dir`, and any setting as `--set NAME=VALUE`; not a
secret one, for everybody can read the command line.

`key-server config check` names everything that is wrong; `key-server config show
--origin` shows each value and where it comes from.

Times are written as in `500ms`, `60s`, `5m`, `24h`, `7d`.
";

fn reference(output: &mut Output) -> Result<Exit, Failure> {
    let (_, shown) = config::resolve(&Sources::default())
        .map_err(|problems| Failure::no(format!("the defaults are wrong: {problems:?}")))?;
    output.line(REFERENCE_HEAD)?;
    output.line("| setting | default | variable | what it is |\n|---|---|---|---|")?;
    for Shown { name, default, variable, about, .. } in &shown {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let about = about.replace('|', "\\|");
        output.line(format!("| `{name}` | {default} | `{variable}` | {about} |"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_so_that_they_read_as_themselves() {
        for (value, text) in
            [("42", "42"), ("0600", "\"0600\""), ("1h", "\"1h\""), ("", "\"\""), ("a\"b", "'a\"b'")]
        {
            assert_eq!(toml_value(value), text);
        }
    }
}
