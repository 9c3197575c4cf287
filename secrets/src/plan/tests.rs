use std::num::NonZeroU32;

use key_server_core::ModelName;

use super::*;
use crate::{SecretKey, key_id};

const HERE: &str = "csv@node-1";
const OTHER: &str = "csv@node-2";

fn models(names: &[&str]) -> Vec<ModelName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn listed(secret: &str, names: &[&str]) -> ImportedKey {
    let secret = Arc::new(SecretKey::copy_of(secret));
    ImportedKey {
        id: key_id("openai", &secret),
        models: models(names),
        own_weight: None,
        max_holders: None,
        label: None,
        secret,
    }
}

fn stored(secret: &str, names: &[&str], sources: &[&str]) -> StoredKey {
    let key = listed(secret, names);
    let mut facts = own_facts(&key, &Arc::from(HERE));
    facts.sources = sources.iter().map(|source| Arc::from(*source)).collect();
    StoredKey { facts: Arc::new(facts), secret: key.secret }
}

fn import(keys: Vec<ImportedKey>) -> Import {
    Import { keys, problems: Vec::new(), errors_count: 0 }
}

fn planned(stored: &[StoredKey], keys: Vec<ImportedKey>) -> Plan {
    plan(stored, &import(keys), HERE, Force::Yes).unwrap()
}

const O3: &[&str] = &["openai/o3"];

#[test]
fn first_import_adds_every_key_with_its_source() {
    let plan = planned(&[], vec![listed("sk-fake-1", O3)]);
    let [put] = &plan.change.put[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(*put.facts.sources, [Arc::from(HERE)]);
    assert_eq!(put.facts.own_weight, OwnWeight::DEFAULT);
    assert_eq!(plan.summary.added, [put.id()]);
}

#[test]
fn second_import_of_the_same_list_changes_nothing() {
    let first = planned(&[], vec![listed("sk-fake-1", O3), listed("sk-fake-2", O3)]);
    let again = vec![listed("sk-fake-1", O3), listed("sk-fake-2", O3)];
    let second = planned(&first.change.put, again);
    assert!(second.change.is_empty());
    let summary = Summary { unchanged_count: 2, ..Summary::default() };
    assert_eq!(second.summary, summary);
}

#[test]
fn unlisted_key_leaves_the_store_with_its_last_source() {
    let alone = stored("sk-fake-1", O3, &[HERE]);
    let shared = stored("sk-fake-2", O3, &[HERE, OTHER]);
    let foreign = stored("sk-fake-3", O3, &[OTHER]);
    let plan = planned(&[alone.clone(), shared.clone(), foreign], vec![listed("sk-fake-4", O3)]);
    assert_eq!(plan.change.remove, [alone.id()]);
    let kept = plan.change.put.iter().find(|key| key.id() == shared.id()).unwrap();
    assert_eq!(*kept.facts.sources, [Arc::from(OTHER)]);
    let mut withdrawn = vec![alone.id(), shared.id()];
    withdrawn.sort();
    assert_eq!(plan.summary.withdrawn, withdrawn);
    assert_eq!(plan.summary.still_listed_count, 1);
    assert_eq!(plan.summary.added.len(), 1);
}

#[test]
fn facts_of_a_key_that_only_this_csv_lists_are_exactly_those_of_the_csv() {
    let mut facts =
        KeyFacts::clone(&stored("sk-fake-1", &["openai/gpt-4o", "openai/o3"], &[HERE]).facts);
    facts.own_weight = OwnWeight::from_thousandths(5).unwrap();
    facts.label = Some("old".into());
    let before =
        StoredKey { facts: Arc::new(facts), secret: Arc::new(SecretKey::copy_of("sk-fake-1")) };
    let plan = planned(&[before], vec![listed("sk-fake-1", O3)]);
    let after = &plan.change.put[0].facts;
    assert_eq!(after.models, models(O3));
    assert_eq!((after.own_weight, &after.label), (OwnWeight::DEFAULT, &None));
    assert_eq!(plan.summary.changed, [after.key]);
}

#[test]
fn facts_that_others_brought_stay_when_a_key_is_listed_by_several() {
    let mut facts =
        KeyFacts::clone(&stored("sk-fake-1", &["openai/gpt-4o"], &["cli", OTHER]).facts);
    facts.own_weight = OwnWeight::from_thousandths(5).unwrap();
    facts.label = Some("theirs".into());
    let before =
        StoredKey { facts: Arc::new(facts), secret: Arc::new(SecretKey::copy_of("sk-fake-1")) };
    let mut key = listed("sk-fake-1", O3);
    key.max_holders = NonZeroU32::new(1);
    key.label = Some("ours".into());
    let plan = planned(&[before], vec![key]);
    let after = &plan.change.put[0].facts;
    assert_eq!(after.models, models(&["openai/gpt-4o", "openai/o3"]));
    assert_eq!(after.own_weight.thousandths(), 5);
    assert_eq!(after.label.as_deref(), Some("ours"));
    assert_eq!(after.max_holders, NonZeroU32::new(1));
    assert_eq!(*after.sources, [Arc::from("cli"), HERE.into(), OTHER.into()]);
}

fn pool(count: usize) -> Vec<StoredKey> {
    (0..count).map(|n| stored(&format!("sk-fake-{n}"), O3, &[HERE])).collect()
}

fn listing(count: usize) -> Import {
    import((0..count).map(|n| listed(&format!("sk-fake-{n}"), O3)).collect())
}

#[test]
fn losing_half_of_the_keys_is_accepted_and_more_is_refused_unless_forced() {
    let stored = pool(10);
    assert!(plan(&stored, &listing(5), HERE, Force::No).is_ok());
    let refusal = plan(&stored, &listing(4), HERE, Force::No).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the CSV would withdraw 6 of the 10 keys that csv@node-1 listed before, more than half; \
         if this is meant, reload with force"
    );
    let forced = plan(&stored, &listing(4), HERE, Force::Yes).unwrap();
    assert_eq!(forced.summary.withdrawn.len(), 6);
}

#[test]
fn keys_of_other_sources_do_not_count_for_the_guard() {
    let mut all = pool(2);
    all.extend((10..40).map(|n| stored(&format!("sk-fake-{n}"), O3, &[OTHER])));
    assert!(plan(&all, &listing(1), HERE, Force::No).is_ok());
    let refusal = plan(&all, &import(vec![listed("sk-fake-99", O3)]), HERE, Force::No);
    assert!(matches!(
        refusal,
        Err(Refusal::TooManyWithdrawn { listed_count: 2, withdrawn_count: 2, .. })
    ));
}

#[test]
fn empty_list_is_refused_unless_forced() {
    let stored = pool(3);
    let refusal = plan(&stored, &listing(0), HERE, Force::No).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the CSV lists no keys, and csv@node-1 listed 3 before; if all are to be withdrawn, reload with force"
    );
    assert_eq!(planned(&stored, Vec::new()).change.remove.len(), 3);
}

#[test]
fn bad_rows_are_refused_even_by_force() {
    let bad = Import { errors_count: 2, ..listing(0) };
    let refusal = plan(&pool(3), &bad, HERE, Force::Yes).unwrap_err();
    assert_eq!(refusal.to_string(), "the CSV has 2 errors; correct them, nothing was changed");
}
