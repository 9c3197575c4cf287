use std::time::Duration;

use key_server_core::{Rules, TierTable};

use super::scanner::{Scanner, field};
use super::writer::LineWriter;
use crate::error::Fault;
use crate::record::Fact;

pub(super) fn encode(rules: &Rules, shares: bool, line: &mut LineWriter<'_>) {
    let tiers = &rules.tiers;
    line.raw(field!("tier_moderate_tokens"));
    line.number(tiers.moderate_tokens);
    line.raw(field!("tier_heavy_tokens"));
    line.number(tiers.heavy_tokens);
    line.raw(field!("tier_weights"));
    line.list(tiers.weights, |weight, line| line.number(weight.into()));
    for (field, time) in [
        (field!("session_ttl_ms"), rules.session_ttl),
        (field!("ended_session_ttl_ms"), rules.ended_session_ttl),
        (field!("cooldown_ms"), rules.cooldown),
        (field!("cooldown_max_ms"), rules.cooldown_max),
    ] {
        line.raw(field);
        line.number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
    for (field, count) in [
        (field!("ended_sessions_max"), rules.ended_sessions_max),
        (field!("sessions_max"), rules.sessions_max),
        (field!("session_allocations_max"), rules.session_allocations_max),
    ] {
        line.raw(field);
        line.number(count as u64);
    }
    line.raw(field!("max_holders"));
    line.number(rules.max_holders.into());
    line.raw(field!("shares"));
    line.flag(shares);
}

pub(super) fn decode(line: &mut Scanner<'_>) -> Result<Fact, Fault> {
    let moderate_tokens = line.field_number(field!("tier_moderate_tokens"))?;
    let heavy_tokens = line.field_number(field!("tier_heavy_tokens"))?;
    line.literal(field!("tier_weights"))?;
    let fault = line.expected("the weights of four tiers");
    let weights = line.list(Scanner::number_u32)?;
    let weights: [u32; 4] = weights.try_into().map_err(|_| fault)?;
    let rules = Rules {
        tiers: TierTable { moderate_tokens, heavy_tokens, weights },
        session_ttl: span(line, field!("session_ttl_ms"))?,
        ended_session_ttl: span(line, field!("ended_session_ttl_ms"))?,
        cooldown: span(line, field!("cooldown_ms"))?,
        cooldown_max: span(line, field!("cooldown_max_ms"))?,
        ended_sessions_max: count(line, field!("ended_sessions_max"))?,
        sessions_max: count(line, field!("sessions_max"))?,
        session_allocations_max: count(line, field!("session_allocations_max"))?,
        max_holders: line.field_u32(field!("max_holders"))?,
    };
    let shares = line.field_flag(field!("shares"))?;
    Ok(Fact::RulesSet { rules: Box::new(rules), shares })
}

fn span(line: &mut Scanner<'_>, field: &'static str) -> Result<Duration, Fault> {
    line.field_number(field).map(Duration::from_millis)
}

fn count(line: &mut Scanner<'_>, field: &'static str) -> Result<usize, Fault> {
    let fault = line.expected("a count that this machine can count to");
    usize::try_from(line.field_number(field)?).map_err(|_| fault)
}
