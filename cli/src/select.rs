use std::mem;

use clap::Args;
use key_server_proto::v1::{
    SelectKeysRequest, SelectKeysResponse, SelectedKey, Shortage, ShortageReason,
};
use zeroize::Zeroizing;

use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::table::{Cell, Column, Table};
use crate::output::text::counted;
use crate::output::{Output, Tone, time};
use crate::{json, word};

pub(crate) const EXAMPLES: &str = "\
The keys stay with the session until it is released or ends; asking again gives
the same keys. Credentials are masked unless --reveal is given. Exit code 1: a
model has no usable key; then nothing was allocated.

Examples:
  key-server select --session demo --user 1 --model openai/gpt-4o
  key-server select --session demo --user 1 --model openai/gpt-4o \\
      --model anthropic/claude-3-7-sonnet-20250219 --count 2
  key-server select --session demo --user 1 --model openai/gpt-4o --json --reveal \\
      | jq -r '.keys[0].api_key'
  key-server sessions release demo";

#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    /// The session that will hold the keys; opened when there is none of this id
    #[arg(long, value_name = "ID")]
    session: String,
    /// Your number for the person or tenant it works for
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    user: i32,
    /// A provider/model, as in openai/gpt-4o; may be repeated
    #[arg(long = "model", value_name = "MODEL", required = true, num_args = 1..)]
    models: Vec<String>,
    /// Distinct keys wanted for each model
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    count: i32,
    /// Print the credentials themselves
    #[arg(long)]
    reveal: bool,
}

/// `key-server select`
pub(crate) fn run(
    args: SelectArgs,
    server: &mut Server,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut selected = server.select(SelectKeysRequest {
        session_id: args.session,
        user_id: args.user,
        models: args.models,
        count_per_model: args.count,
    })?;
    if !args.reveal {
        selected.keys.iter_mut().for_each(mask);
    }
    if output.is_json() {
        output.json(&json::selected(&selected))?;
    } else if selected.success {
        output.table(&table(&selected.keys))?;
    }
    output.flush()?;
    if !selected.success {
        return Err(refused(&selected));
    }
    if !output.is_json() {
        notes(&selected, output);
    }
    Ok(Exit::Ok)
}

/// What the table does not say.
fn notes(selected: &SelectKeysResponse, output: &mut Output) {
    selected.shortages.iter().for_each(|shortage| output.note(&in_words(shortage)));
    if let Some(ends) = time::moment(selected.expires_at.as_ref()) {
        let ends = time::relative(ends, time::now());
        output.note(&format!("the session ends {ends} unless it is used before"));
    }
}

/// Characters at the end that are shown of a long credential.
const SHOWN_CHARS: usize = 4;
/// Shorter credentials show nothing.
const LONG_CHARS: usize = 12;

/// Puts stars, and the end of a long credential, in the place of a credential.
fn mask(key: &mut SelectedKey) {
    let secret = Zeroizing::new(mem::take(&mut key.api_key));
    let chars = secret.chars().count();
    let hidden = if chars < LONG_CHARS { chars } else { chars - SHOWN_CHARS };
    key.api_key = "********".to_owned();
    key.api_key.extend(secret.chars().skip(hidden));
}

fn table(keys: &[SelectedKey]) -> Table {
    let mut table = Table::new(&[
        Column::left("MODEL").clip_middle(14),
        Column::left("KEY"),
        Column::left("CREDENTIAL"),
        Column::left("TIER").rank(2),
        Column::left("").rank(1),
    ]);
    for key in keys {
        let held = if key.already_held { "held before" } else { "new" };
        table.row([
            Cell::from(format!("{}/{}", key.provider, key.model)),
            Cell::from(&key.key_id),
            Cell::from(&key.api_key),
            word::tier(key.tier()).into(),
            Cell::new(Tone::Faint, held),
        ]);
    }
    table
}

fn refused(selected: &SelectKeysResponse) -> Failure {
    let short = selected.shortages.iter().filter(|shortage| shortage.given == 0);
    let message = match short.clone().count() {
        0 => selected.error.clone(),
        count => format!(
            "no usable key for {}; nothing was allocated",
            counted(count, "model", "models")
        ),
    };
    let failure =
        short.fold(Failure::no(message), |failure, short| failure.detail(in_words(short)));
    let waits =
        selected.shortages.iter().filter_map(|short| time::span(short.retry_after.as_ref()));
    match waits.max() {
        _ if selected.shortages.iter().any(is_unknown) => {
            failure.hint("`key-server models list` shows the models that have keys")
        }
        Some(wait) => failure.hint(format!("try again in {}", time::wait(wait))),
        None => failure,
    }
}

fn is_unknown(shortage: &Shortage) -> bool {
    shortage.reason() == ShortageReason::UnknownModel
}

/// One line about one model.
fn in_words(shortage: &Shortage) -> String {
    let Shortage { model, wanted, given, keys_total, keys_cooling, keys_at_cap, .. } = shortage;
    let all = match (keys_total, given) {
        (1, _) => "its only key is".to_owned(),
        (_, 0) => format!("all {} are", counted(*keys_total, "key", "keys")),
        _ => format!("{given} of {wanted} given, its other keys are"),
    };
    let back = match time::span(shortage.retry_after.as_ref()) {
        Some(wait) => format!(", the first is back in {}", time::wait(wait)),
        None => String::new(),
    };
    let why = match shortage.reason() {
        ShortageReason::UnknownModel => unknown(&shortage.did_you_mean),
        ShortageReason::PoolTooSmall => {
            format!("{given} of {wanted} given, there are no more keys")
        }
        ShortageReason::AllCooling => format!("{all} cooling{back}"),
        ShortageReason::AllAtCap => {
            format!("{all} held by as many sessions as may be")
        }
        ShortageReason::NoneUsable | ShortageReason::Unspecified => format!(
            "none of its {} is usable: {keys_cooling} cooling{back}, {keys_at_cap} at the cap",
            counted(*keys_total, "key", "keys")
        ),
    };
    format!("{model}: {why}")
}

fn unknown(near: &[String]) -> String {
    match near {
        [] => "no key serves it".to_owned(),
        _ => format!("no key serves it; did you mean {}?", near.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secret: &str) -> String {
        let mut key = SelectedKey { api_key: secret.to_owned(), ..Default::default() };
        mask(&mut key);
        key.api_key
    }

    #[test]
    fn a_mask_shows_the_end_of_long_credentials_only() {
        assert_eq!(masked("sk-fake-1234567890abcd"), "********abcd");
        assert_eq!(masked("12345678901"), "********");
        assert_eq!(masked(""), "********");
        assert_eq!(masked("ключключключ"), "********ключ");
    }

    #[test]
    fn every_reason_has_its_words() {
        let wait = prost_types::Duration { seconds: 41, nanos: 1 };
        let shortage = |reason: ShortageReason| Shortage {
            model: "a/b".to_owned(),
            reason: reason.into(),
            wanted: 2,
            given: 1,
            keys_total: 3,
            keys_cooling: 2,
            keys_at_cap: 1,
            retry_after: Some(wait),
            did_you_mean: vec!["a/c".to_owned(), "a/d".to_owned()],
        };
        for (reason, words) in [
            (ShortageReason::UnknownModel, "a/b: no key serves it; did you mean a/c or a/d?"),
            (ShortageReason::PoolTooSmall, "a/b: 1 of 2 given, there are no more keys"),
            (
                ShortageReason::AllCooling,
                "a/b: 1 of 2 given, its other keys are cooling, the first is back in 42s",
            ),
            (
                ShortageReason::AllAtCap,
                "a/b: 1 of 2 given, its other keys are held by as many sessions as may be",
            ),
            (
                ShortageReason::NoneUsable,
                "a/b: none of its 3 keys is usable: 2 cooling, the first is back in 42s, 1 at the cap",
            ),
        ] {
            assert_eq!(in_words(&shortage(reason)), words);
        }
        let none_given = Shortage { given: 0, ..shortage(ShortageReason::AllAtCap) };
        let words = "a/b: all 3 keys are held by as many sessions as may be";
        assert_eq!(in_words(&none_given), words);
    }
}
