use std::sync::Arc;

use key_server_core::Event;

use super::caches::Caches;
use super::scanner::{Scanner, field};
use super::writer::LineWriter;
use super::{call, key, moved, removed, rules, session, usage};
use crate::error::Fault;
use crate::record::{Durability, Fact};

/// The name of a fact: what happened to what, in the past.
pub(super) fn name(fact: &Fact) -> &'static str {
    match fact {
        Fact::Domain(Event::KeyAdded(_)) => "key.added",
        Fact::Domain(Event::KeyChanged(_)) => "key.changed",
        Fact::Domain(Event::KeyRetired { .. }) => "key.retired",
        Fact::Domain(Event::KeysSelected(_)) => "keys.selected",
        Fact::Domain(Event::UsageTracked(_)) => "usage.tracked",
        Fact::Domain(Event::KeysReleased(_)) => "keys.released",
        Fact::Domain(Event::SessionExpired(_)) => "session.expired",
        Fact::Domain(Event::SessionMovedIn(_)) => "session.moved_in",
        Fact::Domain(Event::SessionMovedOut(_)) => "session.moved_out",
        Fact::NodeStarted { .. } => "node.started",
        Fact::NodeStopped => "node.stopped",
        Fact::LedgerResumed { .. } => "ledger.resumed",
        Fact::RulesSet { .. } => "rules.set",
        Fact::CallNoted(call) if call.reason.is_some() => "call.refused",
        Fact::CallNoted(_) => "call.answered",
        Fact::CallsCounted(calls) if calls.reason.is_some() => "calls.refused",
        Fact::CallsCounted(_) => "calls.answered",
        Fact::SegmentRemoved(_) => "segment.removed",
    }
}

/// Writes the fields that belong to the fact.
pub(super) fn encode(fact: &Fact, line: &mut LineWriter<'_>) {
    match fact {
        Fact::Domain(event) => encode_domain(event, line),
        Fact::NodeStarted { version, durability } => {
            line.raw(field!("version"));
            line.text(version);
            line.raw(field!("durability"));
            line.text(durability.as_str());
        }
        Fact::NodeStopped => {}
        Fact::LedgerResumed { refused_count, since, error } => {
            line.raw(field!("refused_count"));
            line.number(*refused_count);
            line.raw(field!("since"));
            line.number(since.as_ms());
            line.raw(field!("error"));
            line.text(error);
        }
        Fact::RulesSet { rules, shares } => rules::encode(rules, *shares, line),
        Fact::CallNoted(call) => call::encode(call, line),
        Fact::CallsCounted(calls) => call::encode_counted(calls, line),
        Fact::SegmentRemoved(removed) => removed::encode(removed, line),
    }
}

fn encode_domain(event: &Event, line: &mut LineWriter<'_>) {
    match event {
        Event::KeyAdded(facts) | Event::KeyChanged(facts) => key::encode(facts, line),
        Event::KeyRetired { key } => {
            line.raw(field!("key"));
            line.plain(key);
        }
        Event::KeysSelected(selected) => session::encode_selected(selected, line),
        Event::UsageTracked(usage) => usage::encode(usage, line),
        Event::KeysReleased(released) => session::encode_released(released, line),
        Event::SessionExpired(expired) => session::encode_ref(&expired.session, line),
        Event::SessionMovedIn(moved) => moved::encode_in(moved, line),
        Event::SessionMovedOut(moved) => moved::encode_out(moved, line),
    }
}

/// Reads the fields that belong to the fact called `name`.
pub(super) fn decode(
    name: &str,
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<Fact, Fault> {
    let event = match name {
        "key.added" => Event::KeyAdded(Arc::new(key::decode(line, caches)?)),
        "key.changed" => Event::KeyChanged(Arc::new(key::decode(line, caches)?)),
        "key.retired" => Event::KeyRetired { key: line.field_key_id(field!("key"))? },
        "keys.selected" => Event::KeysSelected(session::decode_selected(line, caches)?),
        "usage.tracked" => Event::UsageTracked(usage::decode(line, caches)?),
        "keys.released" => Event::KeysReleased(session::decode_released(line, caches)?),
        "session.expired" => Event::SessionExpired(session::decode_expired(line)?),
        "session.moved_in" => Event::SessionMovedIn(moved::decode_in(line, caches)?),
        "session.moved_out" => Event::SessionMovedOut(moved::decode_out(line)?),
        _ => return decode_ledger_fact(name, line, caches),
    };
    Ok(Fact::Domain(event))
}

fn decode_ledger_fact(
    name: &str,
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<Fact, Fault> {
    match name {
        "node.started" => {
            line.literal(field!("version"))?;
            let version = line.text()?.into();
            line.literal(field!("durability"))?;
            Ok(Fact::NodeStarted { version, durability: decode_durability(line)? })
        }
        "node.stopped" => Ok(Fact::NodeStopped),
        "ledger.resumed" => {
            let refused_count = line.field_number(field!("refused_count"))?;
            let since = line.field_time(field!("since"))?;
            line.literal(field!("error"))?;
            Ok(Fact::LedgerResumed { refused_count, since, error: line.text()?.into() })
        }
        "rules.set" => rules::decode(line),
        "call.refused" => Ok(Fact::CallNoted(call::decode(line, caches, true)?)),
        "call.answered" => Ok(Fact::CallNoted(call::decode(line, caches, false)?)),
        "calls.refused" => Ok(Fact::CallsCounted(call::decode_counted(line, true)?)),
        "calls.answered" => Ok(Fact::CallsCounted(call::decode_counted(line, false)?)),
        "segment.removed" => Ok(Fact::SegmentRemoved(removed::decode(line)?)),
        _ => Err(line.expected("the name of an event before this")),
    }
}

fn decode_durability(line: &mut Scanner<'_>) -> Result<Durability, Fault> {
    let fault = line.expected("\"disk\" or \"process\"");
    match &*line.text()? {
        "disk" => Ok(Durability::Disk),
        "process" => Ok(Durability::Process),
        _ => Err(fault),
    }
}
