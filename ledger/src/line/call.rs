use std::sync::Arc;

use super::caches::Caches;
use super::scanner::{Scanner, field};
use super::session::{decode_ref_if, encode_ref};
use super::writer::LineWriter;
use crate::error::Fault;
use crate::record::{CallNoted, CallsCounted};

pub(super) fn encode(call: &CallNoted, line: &mut LineWriter<'_>) {
    encode_kind(&call.verb, call.reason.as_deref(), line);
    if let Some(session) = &call.session {
        encode_ref(session, line);
    }
    if let Some(model) = &call.model {
        line.raw(field!("model"));
        line.text(model.as_str());
    }
    if let Some(key) = &call.key {
        line.raw(field!("key"));
        line.plain(key);
    }
}

pub(super) fn decode(
    line: &mut Scanner<'_>,
    caches: &mut Caches,
    is_refused: bool,
) -> Result<CallNoted, Fault> {
    let (verb, reason) = decode_kind(line, is_refused)?;
    let session = decode_ref_if(line)?;
    let model = line.take_if(field!("model")).then(|| caches.model(line)).transpose()?;
    let key = line.take_if(field!("key")).then(|| line.key_id()).transpose()?;
    Ok(CallNoted { verb, reason, session, model, key })
}

pub(super) fn encode_counted(calls: &CallsCounted, line: &mut LineWriter<'_>) {
    encode_kind(&calls.verb, calls.reason.as_deref(), line);
    if let Some(uid) = calls.uid {
        line.raw(field!("uid"));
        line.number(uid.into());
    }
    line.raw(field!("count"));
    line.number(calls.count);
    line.raw(field!("since"));
    line.number(calls.since.as_ms());
}

pub(super) fn decode_counted(
    line: &mut Scanner<'_>,
    is_refused: bool,
) -> Result<CallsCounted, Fault> {
    let (verb, reason) = decode_kind(line, is_refused)?;
    let uid = line.take_if(field!("uid")).then(|| line.number_u32()).transpose()?;
    let count = line.field_number(field!("count"))?;
    Ok(CallsCounted { verb, reason, uid, count, since: line.field_time(field!("since"))? })
}

fn encode_kind(verb: &str, reason: Option<&str>, line: &mut LineWriter<'_>) {
    line.raw(field!("verb"));
    line.text(verb);
    if let Some(reason) = reason {
        line.raw(field!("reason"));
        line.text(reason);
    }
}

type Kind = (Arc<str>, Option<Arc<str>>);

fn decode_kind(line: &mut Scanner<'_>, is_refused: bool) -> Result<Kind, Fault> {
    line.literal(field!("verb"))?;
    let verb = line.text()?.into();
    if !is_refused {
        return Ok((verb, None));
    }
    line.literal(field!("reason"))?;
    Ok((verb, Some(line.text()?.into())))
}
