use key_server_core::{
    KeyId, KeysReleased, KeysSelected, ModelName, Pick, SessionExpired, SessionRef, Tier,
};

use super::caches::Caches;
use super::scanner::{Scanner, field};
use super::writer::LineWriter;
use crate::error::Fault;

pub(super) fn encode_ref(session: &SessionRef, line: &mut LineWriter<'_>) {
    line.raw(field!("session"));
    line.text(&session.id);
    line.raw(field!("owner"));
    line.number(session.owner.into());
}

pub(super) fn decode_ref(line: &mut Scanner<'_>) -> Result<SessionRef, Fault> {
    line.literal(field!("session"))?;
    let id = line.text()?.into();
    Ok(SessionRef { owner: line.field_u32(field!("owner"))?, id })
}

pub(super) fn decode_ref_if(line: &mut Scanner<'_>) -> Result<Option<SessionRef>, Fault> {
    if !line.take_if(field!("session")) {
        return Ok(None);
    }
    let id = line.text()?.into();
    Ok(Some(SessionRef { owner: line.field_u32(field!("owner"))?, id }))
}

pub(super) fn encode_selected(selected: &KeysSelected, line: &mut LineWriter<'_>) {
    encode_ref(&selected.session, line);
    line.raw(field!("user"));
    line.signed(selected.user);
    line.raw(field!("opened"));
    line.flag(selected.opened);
    line.raw(field!("deadline"));
    line.number(selected.deadline.as_ms());
    line.raw(field!("seed"));
    line.hex(&selected.seed.to_be_bytes());
    line.raw(field!("keys"));
    line.list(&selected.picks, encode_pick);
}

pub(super) fn decode_selected(
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<KeysSelected, Fault> {
    let session = decode_ref(line)?;
    line.literal(field!("user"))?;
    let user = line.signed()?;
    let opened = line.field_flag(field!("opened"))?;
    let deadline = line.field_time(field!("deadline"))?;
    line.literal(field!("seed"))?;
    let seed = line.seed()?;
    line.literal(field!("keys"))?;
    let picks = line.list(|line| decode_pick(line, caches))?;
    Ok(KeysSelected { session, user, opened, deadline, seed, picks })
}

fn encode_pick(pick: &Pick, line: &mut LineWriter<'_>) {
    line.raw("{\"model\":");
    line.text(pick.model.as_str());
    line.raw(field!("key"));
    line.plain(pick.key);
    line.raw(field!("tier"));
    line.text(tier_name(pick.tier));
    line.raw(field!("already_held"));
    line.flag(pick.already_held);
    line.raw(field!("candidates"));
    line.number(pick.candidates.into());
    line.raw(field!("weight"));
    line.plain(pick.weight);
    line.raw(field!("total_weight"));
    line.plain(pick.total_weight);
    line.raw("}");
}

fn decode_pick(line: &mut Scanner<'_>, caches: &mut Caches) -> Result<Pick, Fault> {
    line.literal("{\"model\":")?;
    let model = caches.model(line)?;
    let key = line.field_key_id(field!("key"))?;
    let tier = decode_tier(line)?;
    let already_held = line.field_flag(field!("already_held"))?;
    let candidates = line.field_u32(field!("candidates"))?;
    line.literal(field!("weight"))?;
    let weight = line.quoted_number()?;
    line.literal(field!("total_weight"))?;
    let total_weight = line.quoted_number()?;
    line.literal("}")?;
    Ok(Pick { model, key, tier, already_held, candidates, weight, total_weight })
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Unused => "unused",
        Tier::Light => "light",
        Tier::Moderate => "moderate",
        Tier::Heavy => "heavy",
    }
}

fn decode_tier(line: &mut Scanner<'_>) -> Result<Tier, Fault> {
    line.literal(field!("tier"))?;
    let fault = line.expected("a tier: unused, light, moderate or heavy");
    match &*line.text()? {
        "unused" => Ok(Tier::Unused),
        "light" => Ok(Tier::Light),
        "moderate" => Ok(Tier::Moderate),
        "heavy" => Ok(Tier::Heavy),
        _ => Err(fault),
    }
}

pub(super) fn encode_released(released: &KeysReleased, line: &mut LineWriter<'_>) {
    encode_ref(&released.session, line);
    line.raw(field!("keys"));
    line.list(&released.allocations, |(model, key), line| {
        line.raw("{\"model\":");
        line.text(model.as_str());
        line.raw(field!("key"));
        line.plain(key);
        line.raw("}");
    });
    if let Some(deadline) = released.deadline {
        line.raw(field!("deadline"));
        line.number(deadline.as_ms());
    }
}

pub(super) fn decode_released(
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<KeysReleased, Fault> {
    let session = decode_ref(line)?;
    line.literal(field!("keys"))?;
    let allocations = line.list(|line| decode_allocation(line, caches))?;
    let deadline = line.field_time_if(field!("deadline"))?;
    Ok(KeysReleased { session, allocations, deadline })
}

fn decode_allocation(
    line: &mut Scanner<'_>,
    caches: &mut Caches,
) -> Result<(ModelName, KeyId), Fault> {
    line.literal("{\"model\":")?;
    let model = caches.model(line)?;
    let key = line.field_key_id(field!("key"))?;
    line.literal("}")?;
    Ok((model, key))
}

pub(super) fn decode_expired(line: &mut Scanner<'_>) -> Result<SessionExpired, Fault> {
    decode_ref(line).map(|session| SessionExpired { session })
}
