use key_server_core::{Outcome, Tokens, UsageTracked};

use super::caches::Caches;
use super::scanner::{Scanner, field};
use super::session::{decode_ref, encode_ref};
use super::writer::LineWriter;
use crate::error::Fault;

pub(super) fn encode(usage: &UsageTracked, line: &mut LineWriter<'_>) {
    encode_ref(&usage.session, line);
    line.raw(field!("user"));
    line.signed(usage.user);
    line.raw(field!("key"));
    line.plain(usage.key);
    line.raw(field!("model"));
    line.text(usage.model.as_str());
    encode_tokens(usage.tokens, line);
    line.raw(field!("outcome"));
    line.text(outcome_name(usage.outcome));
    line.raw(field!("event_id"));
    line.text(&usage.event_id);
    line.raw(field!("occurred"));
    line.number(usage.occurred.as_ms());
    line.raw(field!("late"));
    line.flag(usage.late);
    if let Some(deadline) = usage.deadline {
        line.raw(field!("deadline"));
        line.number(deadline.as_ms());
    }
    if let Some(cooling_until) = usage.cooling_until {
        line.raw(field!("cooling_until"));
        line.number(cooling_until.as_ms());
    }
}

pub(super) fn decode(line: &mut Scanner<'_>, caches: &mut Caches) -> Result<UsageTracked, Fault> {
    let session = decode_ref(line)?;
    line.literal(field!("user"))?;
    let user = line.signed()?;
    let key = line.field_key_id(field!("key"))?;
    line.literal(field!("model"))?;
    let model = caches.model(line)?;
    Ok(UsageTracked {
        session,
        user,
        key,
        model,
        tokens: decode_tokens(line)?,
        outcome: decode_outcome(line)?,
        event_id: decode_event_id(line)?,
        occurred: line.field_time(field!("occurred"))?,
        late: line.field_flag(field!("late"))?,
        deadline: line.field_time_if(field!("deadline"))?,
        cooling_until: line.field_time_if(field!("cooling_until"))?,
    })
}

pub(super) fn encode_tokens(tokens: Tokens, line: &mut LineWriter<'_>) {
    line.raw(field!("input_tokens"));
    line.number(tokens.input);
    line.raw(field!("output_tokens"));
    line.number(tokens.output);
    line.raw(field!("cached_input_tokens"));
    line.number(tokens.cached_input);
}

pub(super) fn decode_tokens(line: &mut Scanner<'_>) -> Result<Tokens, Fault> {
    Ok(Tokens {
        input: line.field_number(field!("input_tokens"))?,
        output: line.field_number(field!("output_tokens"))?,
        cached_input: line.field_number(field!("cached_input_tokens"))?,
    })
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::RateLimited => "rate_limited",
        Outcome::AuthFailed => "auth_failed",
        Outcome::ProviderError => "provider_error",
        Outcome::Cancelled => "cancelled",
    }
}

fn decode_outcome(line: &mut Scanner<'_>) -> Result<Outcome, Fault> {
    line.literal(field!("outcome"))?;
    let fault = line.expected("an outcome such as success or rate_limited");
    match &*line.text()? {
        "success" => Ok(Outcome::Success),
        "rate_limited" => Ok(Outcome::RateLimited),
        "auth_failed" => Ok(Outcome::AuthFailed),
        "provider_error" => Ok(Outcome::ProviderError),
        "cancelled" => Ok(Outcome::Cancelled),
        _ => Err(fault),
    }
}

fn decode_event_id(line: &mut Scanner<'_>) -> Result<std::sync::Arc<str>, Fault> {
    line.literal(field!("event_id"))?;
    line.text().map(std::sync::Arc::from)
}
