//! Single calls, as applications make them.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use key_server_proto::v1;
use key_server_testkit::client::Client;

use crate::csv::MODEL;

/// Tokens of each report's prompt.
pub(crate) const INPUT_TOKENS: i64 = 900;
/// Tokens of each report's answer.
pub(crate) const OUTPUT_TOKENS: i64 = 100;

/// As long as a UUID, and new.
pub(crate) fn new_session() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("bench-{:0>30}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Asks for one key; answers its id.
pub(crate) async fn select(client: &mut Client, session: &str) -> anyhow::Result<String> {
    let key = try_select(client, session).await?;
    key.map_err(|refused| anyhow::anyhow!("refused: {refused}"))
}

/// The same, where a refusal in words is an answer.
pub(crate) async fn try_select(
    client: &mut Client,
    session: &str,
) -> anyhow::Result<Result<String, String>> {
    let request = v1::SelectKeysRequest {
        session_id: session.to_owned(),
        user_id: 456,
        models: vec![MODEL.to_owned()],
        count_per_model: 1,
    };
    let response = client.select_keys_for_session(request).await?.into_inner();
    if !response.success {
        return Ok(Err(response.error));
    }
    Ok(Ok(response.keys.into_iter().next().context("a success without a key")?.key_id))
}

/// Gives all keys of a session back.
pub(crate) async fn release(client: &mut Client, session: &str) -> anyhow::Result<()> {
    let session_id = session.to_owned();
    client.release_key(v1::ReleaseKeyRequest { session_id, ..Default::default() }).await?;
    Ok(())
}

/// Reports one use of a key, the only one of its session.
pub(crate) async fn report(client: &mut Client, session: &str, key: &str) -> anyhow::Result<()> {
    let request = v1::TrackUsageRequest {
        session_id: session.to_owned(),
        key_id: key.to_owned(),
        model: MODEL.to_owned(),
        input_tokens: INPUT_TOKENS,
        output_tokens: OUTPUT_TOKENS,
        outcome: v1::Outcome::Success.into(),
        event_id: format!("use-of-{session}"),
        ..Default::default()
    };
    let response = client.track_usage(request).await?.into_inner();
    ensure!(response.success, "a report was not taken");
    Ok(())
}
