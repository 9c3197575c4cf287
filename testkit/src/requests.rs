//! Calls that tests make again and again.

use key_server_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::client::Client;

/// A policy that lets every uid do what applications do.
pub const EVERYONE: &str = "[[rule]]\nname = \"everyone\"\neveryone = true\nproviders = \"*\"\n";

/// A request for `count` keys of each model, for the user 456.
pub fn select(session: &str, models: &[&str], count: i32) -> v1::SelectKeysRequest {
    v1::SelectKeysRequest {
        session_id: session.into(),
        user_id: 456,
        models: models.iter().map(|model| (*model).into()).collect(),
        count_per_model: count,
    }
}

/// A report of 100 and 20 tokens.
pub fn report(session: &str, key: &v1::SelectedKey, event: &str) -> v1::TrackUsageRequest {
    v1::TrackUsageRequest {
        session_id: session.into(),
        key_id: key.key_id.clone(),
        model: format!("{}/{}", key.provider, key.model),
        input_tokens: 100,
        output_tokens: 20,
        event_id: event.into(),
        ..Default::default()
    }
}

/// The end of a whole session.
pub fn release(session: &str) -> v1::ReleaseKeyRequest {
    v1::ReleaseKeyRequest { session_id: session.into(), ..Default::default() }
}

/// Keys for a session that must get some.
///
/// # Panics
/// When it gets none.
pub async fn selected(client: &mut Client, request: v1::SelectKeysRequest) -> Vec<v1::SelectedKey> {
    let reply = client.select_keys_for_session(request).await.expect("it is served").into_inner();
    assert!(reply.success, "{}", reply.error);
    reply.keys
}

/// What the daemon says of itself.
///
/// # Panics
/// When it does not answer.
pub async fn health(client: &mut Client) -> v1::HealthResponse {
    client.health(v1::HealthRequest {}).await.expect("it tells how it is").into_inner()
}

/// The ids of keys, in their order.
pub fn key_ids(keys: &[v1::SelectedKey]) -> Vec<&str> {
    keys.iter().map(|key| key.key_id.as_str()).collect()
}

/// The code, and the reason for programs.
///
/// # Panics
/// When there is no reason.
pub fn reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("every error says its reason: {status:?}"));
    assert_eq!(info.domain, "keyserver.v1");
    (status.code(), info.reason.clone())
}
