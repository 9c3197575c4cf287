//! Rows to keys: one credential under several models is one key.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{KeyId, ModelName, OwnWeight};

use super::ImportedKey;
use super::header::{LABEL, MAX_HOLDERS, WEIGHT};
use super::problem::Problems;
use super::row::Entry;
use crate::{SecretKey, key_id};

/// The keys of the rows so far.
#[derive(Default)]
pub(super) struct KeysByRow {
    keys: HashMap<KeyId, Draft>,
    /// Models by name, so that equal names share one allocation.
    models: HashMap<ModelName, ModelName>,
}

/// A key, and the line that first said each thing of it.
struct Draft {
    secret: SecretKey,
    models: Vec<(ModelName, u32)>,
    own_weight: Option<(OwnWeight, u32)>,
    max_holders: Option<(NonZeroU32, u32)>,
    label: Option<(Arc<str>, u32)>,
}

impl KeysByRow {
    /// Adds what a row says; reports a repeated row and a contradiction.
    pub(super) fn add(&mut self, entry: Entry, problems: &mut Problems) {
        let line = entry.line;
        let model = self.models.entry(entry.model.clone()).or_insert(entry.model).clone();
        let id = key_id(model.provider(), &entry.secret);
        let draft = match self.keys.entry(id) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => slot.insert(Draft::of(entry.secret)),
        };
        draft.add_model(model, line, problems);
        let mut agree = Agreement { line, problems };
        agree.on(WEIGHT, &mut draft.own_weight, entry.own_weight);
        agree.on(MAX_HOLDERS, &mut draft.max_holders, entry.max_holders);
        agree.on(LABEL, &mut draft.label, entry.label);
    }

    /// The keys, sorted by id.
    pub(super) fn into_keys(self) -> Vec<ImportedKey> {
        let keys = self.keys.into_iter();
        let mut keys: Vec<_> = keys.map(|(id, draft)| draft.into_key(id)).collect();
        keys.sort_unstable_by_key(|key| key.id);
        keys
    }
}

impl Draft {
    fn of(secret: SecretKey) -> Self {
        Self {
            secret,
            models: Vec::with_capacity(1),
            own_weight: None,
            max_holders: None,
            label: None,
        }
    }

    fn add_model(&mut self, model: ModelName, line: u32, problems: &mut Problems) {
        match self.models.binary_search_by(|(other, _)| other.cmp(&model)) {
            Ok(place) => {
                let first = self.models[place].1;
                problems.warning(
                    Some(line),
                    None,
                    format!(
                        "the same provider, model and key as on line {first}; remove one of the two"
                    ),
                );
            }
            Err(place) => self.models.insert(place, (model, line)),
        }
    }

    fn into_key(self, id: KeyId) -> ImportedKey {
        ImportedKey {
            id,
            models: self.models.into_iter().map(|(model, _)| model).collect(),
            own_weight: self.own_weight.map(|(weight, _)| weight),
            max_holders: self.max_holders.map(|(count, _)| count),
            label: self.label.map(|(label, _)| label),
            secret: Arc::new(self.secret),
        }
    }
}

struct Agreement<'a> {
    line: u32,
    problems: &'a mut Problems,
}

impl Agreement<'_> {
    fn on<T: PartialEq>(
        &mut self,
        column: &'static str,
        known: &mut Option<(T, u32)>,
        given: Option<T>,
    ) {
        let Some(given) = given else {
            return;
        };
        match known {
            None => *known = Some((given, self.line)),
            Some((value, _)) if *value == given => {}
            Some((_, first)) => {
                let message = contradiction(*first);
                self.problems.error(Some(self.line), Some(column), message);
            }
        }
    }
}

fn contradiction(first: impl Display) -> String {
    format!(
        "differs from line {first}, which has the same key; give both the same value, or leave one empty"
    )
}
