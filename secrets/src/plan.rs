//! From what a CSV lists to what changes in the store.

use std::collections::HashMap;
use std::sync::Arc;

use key_server_core::{KeyFacts, KeyId, OwnWeight};

use crate::csv::{Import, ImportedKey};
use crate::{Change, StoredKey};

/// Whether the guards against an accidental loss of keys are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// They are: the default.
    No,
    /// A person said that the loss is meant. Bad rows are refused all the
    /// same.
    Yes,
}

/// What to commit, and what that does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For [`crate::SecretStore::commit`]; empty when nothing changes.
    pub change: Change,
    /// For people and the ledger.
    pub summary: Summary,
}

/// What an import does. Each key is in exactly one of the four; the lists are
/// sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys that the store did not have.
    pub added: Vec<KeyId>,
    /// Keys whose facts change, among them those that gain the source.
    pub changed: Vec<KeyId>,
    /// Keys that lose the source.
    pub withdrawn: Vec<KeyId>,
    /// How many of the withdrawn keys stay, as another source lists them.
    pub still_listed_count: usize,
    /// How many listed keys stay as they are.
    pub unchanged_count: usize,
}

/// Why an import changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The CSV has errors. Forcing does not help.
    #[error("the CSV has {errors_count} errors; correct them, nothing was changed")]
    BadRows {
        /// How many.
        errors_count: usize,
    },
    /// The CSV lists no keys.
    #[error(
        "the CSV lists no keys, and {source_name} listed {listed_count} before; if all are to be \
         withdrawn, reload with force"
    )]
    Empty {
        /// The CSV's source.
        source_name: Arc<str>,
        /// How many keys it listed before.
        listed_count: usize,
    },
    /// More than half of the source's keys would go.
    #[error(
        "the CSV would withdraw {withdrawn_count} of the {listed_count} keys that {source_name} \
         listed before, more than half; if this is meant, reload with force"
    )]
    TooManyWithdrawn {
        /// The CSV's source.
        source_name: Arc<str>,
        /// How many keys it listed before.
        listed_count: usize,
        /// How many of them it no longer lists.
        withdrawn_count: usize,
    },
}

/// What makes `import` true for `source` (`csv@<node id>`) in a store that
/// holds `stored`.
///
/// A listed key gains the source, an unlisted one loses it, and a key without
/// sources leaves the store. Keys of other sources are not touched.
///
/// The facts of a listed key are those of the CSV. When other sources list it
/// too, what they brought stays: its models are all of theirs and all of the
/// CSV's, and an empty weight, cap or label leaves the stored one. So a model
/// leaves a shared key only when one source is left.
///
/// # Errors
/// A [`Refusal`]; nothing is to be changed then.
pub fn plan(
    stored: &[StoredKey],
    import: &Import,
    source: &str,
    force: Force,
) -> Result<Plan, Refusal> {
    if import.errors_count > 0 {
        let errors_count = import.errors_count;
        return Err(Refusal::BadRows { errors_count });
    }
    let plan = Planner::new(stored, source).plan(&import.keys);
    if force == Force::No {
        guard(stored, import, source, &plan.summary)?;
    }
    Ok(plan)
}

/// Whether losing `lost_count` of `count` keys looks like an accident: more
/// than half of them.
pub fn is_too_many(lost_count: usize, count: usize) -> bool {
    lost_count * 2 > count
}

fn guard(
    stored: &[StoredKey],
    import: &Import,
    source: &str,
    summary: &Summary,
) -> Result<(), Refusal> {
    let listed_count = stored.iter().filter(|key| lists(&key.facts, source)).count();
    let withdrawn_count = summary.withdrawn.len();
    let source_name = Arc::from(source);
    if import.keys.is_empty() {
        return Err(Refusal::Empty { source_name, listed_count });
    }
    if is_too_many(withdrawn_count, listed_count) {
        return Err(Refusal::TooManyWithdrawn { source_name, listed_count, withdrawn_count });
    }
    Ok(())
}

struct Planner<'a> {
    stored: HashMap<KeyId, &'a StoredKey>,
    source: Arc<str>,
    change: Change,
    summary: Summary,
}

impl<'a> Planner<'a> {
    fn new(stored: &'a [StoredKey], source: &str) -> Self {
        Self {
            stored: stored.iter().map(|key| (key.id(), key)).collect(),
            source: source.into(),
            change: Change::default(),
            summary: Summary::default(),
        }
    }

    fn plan(mut self, listed: &[ImportedKey]) -> Plan {
        for key in listed {
            match self.stored.remove(&key.id) {
                Some(stored) => self.keep(key, stored),
                None => self.add(key),
            }
        }
        let mut unlisted: Vec<&StoredKey> = self.stored.drain().map(|(_, key)| key).collect();
        unlisted.sort_unstable_by_key(|key| key.id());
        for key in unlisted {
            self.withdraw(key);
        }
        Plan { change: self.change, summary: self.summary }
    }

    fn add(&mut self, key: &ImportedKey) {
        self.summary.added.push(key.id);
        self.change.put.push(StoredKey {
            facts: Arc::new(own_facts(key, &self.source)),
            secret: Arc::clone(&key.secret),
        });
    }

    fn keep(&mut self, key: &ImportedKey, stored: &StoredKey) {
        let shared = stored.facts.sources.iter().any(|other| *other != self.source);
        let facts = match shared {
            true => shared_facts(key, &stored.facts, &self.source),
            false => own_facts(key, &self.source),
        };
        if facts == *stored.facts {
            self.summary.unchanged_count += 1;
            return;
        }
        self.summary.changed.push(key.id);
        self.put(facts, stored);
    }

    fn withdraw(&mut self, stored: &StoredKey) {
        if !lists(&stored.facts, &self.source) {
            return;
        }
        self.summary.withdrawn.push(stored.id());
        let mut facts = KeyFacts::clone(&stored.facts);
        facts.sources.retain(|other| *other != self.source);
        if facts.sources.is_empty() {
            self.change.remove.push(stored.id());
        } else {
            self.summary.still_listed_count += 1;
            self.put(facts, stored);
        }
    }

    fn put(&mut self, facts: KeyFacts, stored: &StoredKey) {
        self.change
            .put
            .push(StoredKey { facts: Arc::new(facts), secret: Arc::clone(&stored.secret) });
    }
}

fn lists(facts: &KeyFacts, source: &str) -> bool {
    facts.sources.iter().any(|other| **other == *source)
}

/// The facts of a key that only this source lists.
fn own_facts(key: &ImportedKey, source: &Arc<str>) -> KeyFacts {
    KeyFacts {
        key: key.id,
        models: key.models.clone(),
        own_weight: key.own_weight.unwrap_or(OwnWeight::DEFAULT),
        max_holders: key.max_holders,
        label: key.label.clone(),
        sources: vec![Arc::clone(source)],
    }
}

/// The facts of a key that other sources list too.
fn shared_facts(key: &ImportedKey, stored: &KeyFacts, source: &Arc<str>) -> KeyFacts {
    KeyFacts {
        key: key.id,
        models: union(&stored.models, &key.models),
        own_weight: key.own_weight.unwrap_or(stored.own_weight),
        max_holders: key.max_holders.or(stored.max_holders),
        label: key.label.clone().or_else(|| stored.label.clone()),
        sources: union(&stored.sources, std::slice::from_ref(source)),
    }
}

/// The facts of a key that comes from another store, `stored` here already
/// for other sources: their models and sources stay, and what `coming` leaves
/// empty. Without other sources `coming` counts alone.
pub fn united(coming: &KeyFacts, stored: &KeyFacts) -> KeyFacts {
    let is_shared = stored.sources.iter().any(|source| !lists(coming, source));
    if !is_shared {
        return coming.clone();
    }
    KeyFacts {
        models: union(&stored.models, &coming.models),
        max_holders: coming.max_holders.or(stored.max_holders),
        label: coming.label.clone().or_else(|| stored.label.clone()),
        sources: union(&stored.sources, &coming.sources),
        ..coming.clone()
    }
}

fn union<T: Clone + Ord>(one: &[T], other: &[T]) -> Vec<T> {
    let mut all: Vec<T> = one.iter().chain(other).cloned().collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
