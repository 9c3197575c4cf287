use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{KeyFacts, OwnWeight};

use super::caches::Caches;
use super::scanner::{Scanner, field};
use super::writer::LineWriter;
use crate::error::Fault;

pub(super) fn encode(facts: &KeyFacts, line: &mut LineWriter<'_>) {
    line.raw(field!("key"));
    line.plain(facts.key);
    line.raw(field!("models"));
    line.list(&facts.models, |model, line| line.text(model.as_str()));
    line.raw(field!("own_weight_thousandths"));
    line.number(facts.own_weight.thousandths().into());
    if let Some(max_holders) = facts.max_holders {
        line.raw(field!("max_holders"));
        line.number(max_holders.get().into());
    }
    if let Some(label) = &facts.label {
        line.raw(field!("label"));
        line.text(label);
    }
    line.raw(field!("sources"));
    line.list(&facts.sources, |source, line| line.text(source));
}

pub(super) fn decode(line: &mut Scanner<'_>, caches: &mut Caches) -> Result<KeyFacts, Fault> {
    let key = line.field_key_id(field!("key"))?;
    line.literal(field!("models"))?;
    let models = line.list(|line| caches.model(line))?;
    let own_weight = decode_own_weight(line)?;
    let max_holders = decode_max_holders(line)?;
    let label = match line.take_if(field!("label")) {
        true => Some(Arc::from(line.text()?)),
        false => None,
    };
    line.literal(field!("sources"))?;
    let sources = line.list(|line| line.text().map(Arc::from))?;
    Ok(KeyFacts { key, models, own_weight, max_holders, label, sources })
}

fn decode_own_weight(line: &mut Scanner<'_>) -> Result<OwnWeight, Fault> {
    let thousandths = line.field_u32(field!("own_weight_thousandths"))?;
    OwnWeight::from_thousandths(thousandths)
        .ok_or_else(|| line.expected("a weight of at most 1000000 before this"))
}

fn decode_max_holders(line: &mut Scanner<'_>) -> Result<Option<NonZeroU32>, Fault> {
    if !line.take_if(field!("max_holders")) {
        return Ok(None);
    }
    match NonZeroU32::new(line.number_u32()?) {
        None => Err(line.expected("a number above 0 before this")),
        some => Ok(some),
    }
}
