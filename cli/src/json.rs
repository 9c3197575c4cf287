//! The server's messages as JSON: the fields of the contract by their names,
//! enumerations as lower-case words, times in RFC 3339, spans in seconds.

use key_server_proto::v1;
use serde_json::{Value, json};

use crate::output::time;
use crate::word;

/// What a caller who is no operator is not told is null.
pub(crate) fn health(health: &v1::HealthResponse) -> Value {
    let tells_all = crate::health::tells_all(health);
    let told = |value: Value| if tells_all { value } else { Value::Null };
    let backends = health.backends.iter().map(|backend| {
        json!({
            "name": backend.name,
            "state": backend.state,
            "since": moment(backend.since.as_ref()),
            "last_error": backend.last_error,
        })
    });
    json!({
        "status": word::health(health.status()),
        "version": health.version,
        "pid": told(json!(health.pid)),
        "node_id": told(json!(health.node_id)),
        "uptime": span(health.uptime.as_ref()),
        "keys": told(json!(health.keys)),
        "models": told(json!(health.models)),
        "sessions": told(json!(health.sessions)),
        "ledger_position": told(json!(health.ledger_position)),
        "durability": health.durability,
        "backends": told(backends.collect()),
        "notes": told(json!(health.notes)),
        "nodes": told(health.nodes.iter().map(fleet_node).collect()),
    })
}

fn fleet_node(node: &v1::FleetNode) -> Value {
    json!({
        "node_id": node.node_id,
        "version": node.version,
        "silent_for": span(node.silent_for.as_ref()),
    })
}

pub(crate) fn key(key: &v1::KeyStats) -> Value {
    json!({
        "key_id": key.key_id,
        "provider": key.provider,
        "label": key.label,
        "models": key.models,
        "state": word::key_state(key.state()),
        "cooling_until": moment(key.cooling_until.as_ref()),
        "tier": word::tier(key.tier()),
        "weight": key.weight,
        "own_weight": key.own_weight,
        "holders": key.holders,
        "max_holders": key.max_holders,
        "window_tokens": key.window_tokens,
        "lifetime": key.lifetime.as_ref().map(usage),
        "last_used_at": moment(key.last_used_at.as_ref()),
        "sources": key.sources,
        "nodes": key.nodes.iter().map(node_key).collect::<Value>(),
    })
}

fn node_key(node: &v1::NodeKeyStats) -> Value {
    json!({
        "node_id": node.node_id,
        "window_tokens": node.window_tokens,
        "lifetime": node.lifetime.as_ref().map(usage),
        "last_used_at": moment(node.last_used_at.as_ref()),
    })
}

pub(crate) fn node_totals(node: &v1::NodeTotals) -> Value {
    json!({
        "node_id": node.node_id,
        "sessions_live": node.sessions_live,
        "window_tokens": node.window_tokens,
        "lifetime": node.lifetime.as_ref().map(usage),
    })
}

pub(crate) fn usage(usage: &v1::Usage) -> Value {
    json!({
        "requests": usage.requests,
        "failures": usage.failures,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
    })
}

pub(crate) fn pool(pool: &v1::PoolStats) -> Value {
    json!({
        "provider": pool.provider,
        "model": pool.model,
        "keys": pool.keys,
        "usable": pool.usable,
        "cooling": pool.cooling,
        "at_cap": pool.at_cap,
    })
}

pub(crate) fn session(session: &v1::SessionStats) -> Value {
    let allocations = session.allocations.iter().map(|allocation| {
        json!({
            "model": allocation.model,
            "key_id": allocation.key_id,
            "held": allocation.held,
            "usage": allocation.usage.as_ref().map(usage),
        })
    });
    json!({
        "session_id": session.session_id,
        "owner_uid": session.owner_uid,
        "user_id": session.user_id,
        "node_id": session.node_id,
        "opened_at": moment(session.opened_at.as_ref()),
        "expires_at": moment(session.expires_at.as_ref()),
        "ended_at": moment(session.ended_at.as_ref()),
        "allocations": allocations.collect::<Value>(),
    })
}

pub(crate) fn totals(totals: &v1::Totals) -> Value {
    json!({
        "keys": totals.keys,
        "models": totals.models,
        "sessions_live": totals.sessions_live,
        "window_tokens": totals.window_tokens,
        "lifetime": totals.lifetime.as_ref().map(usage),
    })
}

/// With each credential as it is in `selected`: mask it before.
pub(crate) fn selected(selected: &v1::SelectKeysResponse) -> Value {
    let keys = selected.keys.iter().map(|key| {
        json!({
            "provider": key.provider,
            "model": key.model,
            "key_id": key.key_id,
            "api_key": key.api_key,
            "tier": word::tier(key.tier()),
            "already_held": key.already_held,
            "expires_at": moment(key.expires_at.as_ref()),
        })
    });
    json!({
        "success": selected.success,
        "keys": keys.collect::<Value>(),
        "error": selected.error,
        "expires_at": moment(selected.expires_at.as_ref()),
        "shortages": selected.shortages.iter().map(shortage).collect::<Value>(),
    })
}

fn shortage(shortage: &v1::Shortage) -> Value {
    json!({
        "model": shortage.model,
        "reason": word::shortage(shortage.reason()),
        "wanted": shortage.wanted,
        "given": shortage.given,
        "keys_total": shortage.keys_total,
        "keys_cooling": shortage.keys_cooling,
        "keys_at_cap": shortage.keys_at_cap,
        "retry_after": span(shortage.retry_after.as_ref()),
        "did_you_mean": shortage.did_you_mean,
    })
}

pub(crate) fn reloaded(reloaded: &v1::ReloadKeysResponse) -> Value {
    let problems = reloaded.problems.iter().map(|problem| {
        json!({
            "severity": word::severity(problem.severity()),
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
        })
    });
    json!({
        "success": reloaded.success,
        "added": reloaded.added,
        "changed": reloaded.changed,
        "withdrawn": reloaded.withdrawn,
        "unchanged": reloaded.unchanged,
        "error": reloaded.error,
        "problems": problems.collect::<Value>(),
    })
}

pub(crate) fn released(released: &v1::ReleaseKeyResponse) -> Value {
    json!({ "success": released.success, "released": released.released })
}

fn moment(sent: Option<&prost_types::Timestamp>) -> Option<String> {
    time::moment(sent).map(time::rfc3339)
}

fn span(sent: Option<&prost_types::Duration>) -> Option<f64> {
    time::span(sent).map(|span| span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn fields(message: &str) -> BTreeSet<String> {
        let files = FileDescriptorSet::decode(key_server_proto::FILE_DESCRIPTOR_SET).unwrap();
        let messages = files.file.into_iter().flat_map(|file| file.message_type);
        let message = messages.into_iter().find(|one| one.name() == message).unwrap();
        message.field.iter().map(|field| field.name().to_owned()).collect()
    }

    fn names(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_field_of_the_contract_is_there() {
        let session =
            v1::SessionStats { allocations: vec![Default::default()], ..Default::default() };
        let health_response = v1::HealthResponse {
            node_id: "n_1".to_owned(),
            backends: vec![Default::default()],
            ..Default::default()
        };
        let select = v1::SelectKeysResponse {
            keys: vec![Default::default()],
            shortages: vec![Default::default()],
            ..Default::default()
        };
        let reload =
            v1::ReloadKeysResponse { problems: vec![Default::default()], ..Default::default() };
        let (session, select) = (super::session(&session), selected(&select));
        let (health, reload) = (health(&health_response), reloaded(&reload));
        for (value, message) in [
            (&health, "HealthResponse"),
            (&health["backends"][0], "Backend"),
            (&key(&Default::default()), "KeyStats"),
            (&usage(&Default::default()), "Usage"),
            (&pool(&Default::default()), "PoolStats"),
            (&session, "SessionStats"),
            (&session["allocations"][0], "Allocation"),
            (&totals(&Default::default()), "Totals"),
            (&select, "SelectKeysResponse"),
            (&select["keys"][0], "SelectedKey"),
            (&select["shortages"][0], "Shortage"),
            (&reload, "ReloadKeysResponse"),
            (&released(&Default::default()), "ReleaseKeyResponse"),
        ] {
            assert_eq!(names(value), fields(message), "{message}");
        }
    }
}
