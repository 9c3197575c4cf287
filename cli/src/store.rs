//! `key-server store`: from one secret store to another, and another identity
//! for the one at hand.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use key_server_core::KeyId;
use key_server_secrets::{
    AgeFileStore, Change, Rotated, SecretStore, SecretStoreError, StoredKey, rotate_identity,
    united,
};
use serde_json::json;

use crate::adapters;
use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::text::{counted, thousands};
use crate::settings::{self, Resolved, SettingsArgs};

pub(crate) const MIGRATE_EXAMPLES: &str = "\
Copies keys with all their facts; what is only in the target stays there, and
nothing is removed from the source. Of a key that others brought there, too,
models and sources are united. Without --yes nothing is written. What was
done before is not done again, so an interrupted migration is simply repeated;
at the end the target is read back and compared.

Vault is the one that the settings name (VAULT_ADDR and how to sign in), the age
store the one in the state directory.

Examples:
  key-server store migrate --from age --to vault
  key-server store migrate --from age --to vault --yes
  key-server store migrate --from vault --to age --yes";

pub(crate) const ROTATE_EXAMPLES: &str = "\
Makes a new age identity, encrypts secrets.age and secrets-copy.age for it, and
forgets the old one; a passphrase stays the same. A server may run meanwhile:
it takes the new identity over by itself. An interrupted rotation leaves both
identities, so that everything opens, and is simply repeated.

Backups from before open with the old identity only: keep it with them, or make
new ones. Where several state directories share one identity file, rotate by
hand (docs/secret-store.md): this one would lock the others out.

Examples:
  key-server store rotate-identity
  key-server store rotate-identity --yes";

/// Keys that are written between two lines of progress.
const WRITTEN_AT_ONCE: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy the keys from one secret store to another
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate(MigrateArgs),
    /// Replace the age identity that opens the keys
    #[command(after_help = ROTATE_EXAMPLES)]
    RotateIdentity(RotateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Do it; else it is only said what would be done
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Where the keys are
    #[arg(long, value_name = "STORE")]
    from: StoreName,
    /// Where they are to be
    #[arg(long, value_name = "STORE")]
    to: StoreName,
    /// Do it; else it is only said what would be done
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoreName {
    /// The age-encrypted file in the state directory
    Age,
    /// HashiCorp Vault
    Vault,
}

/// What a migration has to do.
#[derive(Default)]
struct Todo {
    /// What the target is to hold in the end.
    wanted: Vec<StoredKey>,
    put: Vec<StoredKey>,
    added: usize,
    changed: usize,
    equal: usize,
    only_there: usize,
}

/// `key-server store …`
///
/// # Errors
/// Settings, or a store that does not do what it is asked.
pub(crate) fn run(
    command: StoreCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Migrate(args) => run_migrate(&args, global, output),
        StoreCommand::RotateIdentity(args) => rotate(&args, global, output),
    }
}

fn run_migrate(
    args: &MigrateArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if args.from == args.to {
        return Err(Failure::usage("--from and --to name the same store"));
    }
    let resolved = resolve(global, &args.settings, output)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(unfit)?.block_on(migrate(args, &resolved, output))
}

fn resolve(
    global: &GlobalArgs,
    settings: &SettingsArgs,
    output: &mut Output,
) -> Result<Resolved, Failure> {
    let mut resolved = settings::resolve(global, settings)?;
    resolved.forget_secrets();
    resolved.warnings.iter().for_each(|warning| output.warn(warning));
    Ok(resolved)
}

fn rotate(args: &RotateArgs, global: &GlobalArgs, output: &mut Output) -> Result<Exit, Failure> {
    let resolved = resolve(global, &args.settings, output)?;
    let state_dir = state_dir(&resolved)?;
    let source = adapters::identity(&resolved, &state_dir)?;
    if !args.yes {
        output.note("nothing was written; --yes makes a new identity and encrypts the keys for it");
        return Ok(Exit::Ok);
    }
    let Rotated { recipient, files } = rotate_identity(&state_dir, &source).map_err(failed)?;
    if output.is_json() {
        let files: Vec<_> =
            files.iter().map(|(file, keys)| json!({ "file": file, "keys": keys })).collect();
        output.json(&json!({ "recipient": recipient, "files": files }))?;
        return Ok(Exit::Ok);
    }
    for (file, keys) in &files {
        let keys = counted(*keys, "key", "keys");
        output.line(format!("{file}: {keys} encrypted for {recipient}"))?;
    }
    output.flush()?;
    output.note("the old identity opens none of it; backups from before still need it");
    Ok(Exit::Ok)
}

fn state_dir(resolved: &Resolved) -> Result<PathBuf, Failure> {
    let state_dir = resolved.state_dir()?;
    if state_dir.is_dir() {
        return Ok(state_dir);
    }
    let message = format!("{} is no directory", state_dir.display());
    Err(Failure::usage(message).hint("name the node's with --state-dir"))
}

async fn migrate(
    args: &MigrateArgs,
    resolved: &Resolved,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Some(from) = open_if_there(args.from, resolved)? else {
        return Err(nothing_there(&state_dir(resolved)?));
    };
    let source = from.load().await.map_err(failed)?;
    // What is only asked about is not made.
    let to =
        if args.yes { Some(open(args.to, resolved)?) } else { open_if_there(args.to, resolved)? };
    let target = match &to {
        Some(to) => to.load().await.map_err(failed)?,
        None => Vec::new(),
    };
    let todo = todo(&source, &target);
    if let Some(to) = to.filter(|_| args.yes) {
        write(&*to, &todo.put, output).await?;
        verify(&todo.wanted, &to.load().await.map_err(failed)?)?;
    }
    tell(args, &todo, output)?;
    Ok(Exit::Ok)
}

/// None when it is the age store and was never written; opening it would make
/// an identity.
fn open_if_there(
    name: StoreName,
    resolved: &Resolved,
) -> Result<Option<Box<dyn SecretStore>>, Failure> {
    match name {
        StoreName::Age if !AgeFileStore::is_at(&state_dir(resolved)?) => Ok(None),
        _ => open(name, resolved).map(Some),
    }
}

fn nothing_there(state_dir: &Path) -> Failure {
    let message = format!("there is no age store in {}, so no keys to copy", state_dir.display());
    Failure::usage(message).hint("name the node's state directory with --state-dir")
}

fn open(name: StoreName, resolved: &Resolved) -> Result<Box<dyn SecretStore>, Failure> {
    match name {
        StoreName::Age => Ok(Box::new(adapters::age_store(resolved, &state_dir(resolved)?)?)),
        StoreName::Vault if resolved.settings.vault_addr.is_empty() => {
            Err(Failure::usage("VAULT_ADDR is not set: name the Vault server"))
        }
        StoreName::Vault => Ok(Box::new(adapters::vault_store(&resolved.settings)?)),
    }
}

fn todo(source: &[StoredKey], target: &[StoredKey]) -> Todo {
    let there: HashMap<KeyId, &StoredKey> = target.iter().map(|key| (key.id(), key)).collect();
    let mut todo = Todo::default();
    for key in source {
        let Some(other) = there.get(&key.id()) else {
            todo.added += 1;
            todo.put.push(key.clone());
            todo.wanted.push(key.clone());
            continue;
        };
        let facts = Arc::new(united(&key.facts, &other.facts));
        let wanted = StoredKey { facts, secret: Arc::clone(&key.secret) };
        if wanted.facts == other.facts {
            todo.equal += 1;
        } else {
            todo.changed += 1;
            todo.put.push(wanted.clone());
        }
        todo.wanted.push(wanted);
    }
    todo.only_there = target.len() - todo.equal - todo.changed;
    todo
}

async fn write(
    to: &dyn SecretStore,
    keys: &[StoredKey],
    output: &mut Output,
) -> Result<(), Failure> {
    let mut written = 0;
    for some in keys.chunks(WRITTEN_AT_ONCE) {
        let change = Change { put: some.to_vec(), remove: Vec::new() };
        to.commit(&change).await.map_err(failed)?;
        written += some.len();
        if keys.len() > WRITTEN_AT_ONCE {
            output.note(&format!("{} of {} keys", thousands(written), thousands(keys.len())));
        }
    }
    Ok(())
}

/// Every wanted key is in the target, with the same facts and the same
/// credential.
fn verify(wanted: &[StoredKey], target: &[StoredKey]) -> Result<(), Failure> {
    let there: HashMap<KeyId, &StoredKey> = target.iter().map(|key| (key.id(), key)).collect();
    let differs = |key: &&StoredKey| {
        there.get(&key.id()).is_none_or(|other| {
            other.facts != key.facts || other.secret.expose() != key.secret.expose()
        })
    };
    let wrong: Vec<&StoredKey> = wanted.iter().filter(differs).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let failure = Failure::no(format!(
        "{} not in the target as they should be; repeat the migration",
        counted(wrong.len(), "key is", "keys are")
    ));
    Err(wrong.iter().take(5).map(|key| key.id().to_string()).fold(failure, Failure::detail))
}

fn tell(args: &MigrateArgs, todo: &Todo, output: &mut Output) -> Result<(), Failure> {
    let Todo { added, changed, equal, only_there, .. } = todo;
    if output.is_json() {
        return output.json(&json!({
            "done": args.yes, "added": added, "changed": changed, "unchanged": equal,
            "only_in_target": only_there,
        }));
    }
    let would = if args.yes { "" } else { "would be " };
    output.line(format!(
        "{} {would}added, {} {would}changed, {} unchanged, {} only in the target",
        counted(*added, "key", "keys"),
        thousands(*changed),
        thousands(*equal),
        thousands(*only_there),
    ))?;
    output.flush()?;
    if args.yes {
        output.note("the target was read back: every key of the source is there");
    } else {
        output.note("nothing was written; --yes does it");
    }
    Ok(())
}

fn failed(error: SecretStoreError) -> Failure {
    Failure::of_lines(Exit::No, &error.to_string())
}

fn unfit(error: impl ToString) -> Failure {
    Failure::of_lines(Exit::Usage, &error.to_string())
}
