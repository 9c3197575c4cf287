use key_server_core::{MovedAllocation, SessionMovedIn, SessionMovedOut, Usage};

use super::caches::Caches;
use super::scanner::{Scanner, field};
use super::session::{decode_ref, encode_ref};
use super::usage::{decode_tokens, encode_tokens};
use super::writer::LineWriter;
use crate::error::Fault;

pub(super) fn encode_in(moved: &SessionMovedIn, line: &mut LineWriter<'_>) {
    encode_ref(&moved.session, line);
    line.raw(field!("user"));
    line.signed(moved.user);
    line.raw(field!("opened_at"));
    line.number(moved.opened.as_ms());
    line.raw(field!("deadline"));
    line.number(moved.deadline.as_ms());
    line.raw(field!("from"));
    line.text(&moved.from);
    line.raw(field!("term"));
    line.number(moved.term.into());
    line.raw(field!("base"));
    line.number(moved.base.into());
    line.raw(field!("keys"));
    line.list(&moved.allocations, encode_allocation);
}

pub(super) fn decode_in(
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<SessionMovedIn, Fault> {
    let session = decode_ref(line)?;
    line.literal(field!("user"))?;
    let user = line.signed()?;
    let opened = line.field_time(field!("opened_at"))?;
    let deadline = line.field_time(field!("deadline"))?;
    line.literal(field!("from"))?;
    let from = line.text()?.into();
    let term = line.field_u32(field!("term"))?;
    let base = line.field_u32(field!("base"))?;
    line.literal(field!("keys"))?;
    let allocations = line.list(|line| decode_allocation(line, caches))?;
    Ok(SessionMovedIn { session, user, opened, deadline, from, term, base, allocations })
}

fn encode_allocation(allocation: &MovedAllocation, line: &mut LineWriter<'_>) {
    line.raw("{\"model\":");
    line.text(allocation.model.as_str());
    line.raw(field!("key"));
    line.plain(allocation.key);
    line.raw(field!("requests"));
    line.number(allocation.usage.requests);
    line.raw(field!("failures"));
    line.number(allocation.usage.failures);
    encode_tokens(allocation.usage.tokens, line);
    line.raw("}");
}

fn decode_allocation(
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<MovedAllocation, Fault> {
    line.literal("{\"model\":")?;
    let model = caches.model(line)?;
    let key = line.field_key_id(field!("key"))?;
    let requests = line.field_number(field!("requests"))?;
    let failures = line.field_number(field!("failures"))?;
    let tokens = decode_tokens(line)?;
    line.literal("}")?;
    Ok(MovedAllocation { model, key, usage: Usage { requests, failures, tokens } })
}

pub(super) fn encode_out(moved: &SessionMovedOut, line: &mut LineWriter<'_>) {
    encode_ref(&moved.session, line);
    line.raw(field!("to"));
    line.text(&moved.to);
    line.raw(field!("term"));
    line.number(moved.term.into());
}

pub(super) fn decode_out(line: &mut Scanner<'_>) -> Result<SessionMovedOut, Fault> {
    let session = decode_ref(line)?;
    line.literal(field!("to"))?;
    let to = line.text()?.into();
    Ok(SessionMovedOut { session, to, term: line.field_u32(field!("term"))? })
}
