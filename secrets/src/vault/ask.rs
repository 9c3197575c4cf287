//! Asking with a token, and saying what a refusal means.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::fault::{self, Capability};
use super::http::{Call, Reply};
use super::kv::{Data, Kv};
use super::settings::KvVersion;
use super::sign_in::json;
use crate::SecretStoreError;

/// How long to wait after a quota refused: at first, and at most.
const QUOTA_PAUSE_FIRST: Duration = Duration::from_millis(250);
const QUOTA_PAUSE_MAX: Duration = Duration::from_secs(4);

impl Kv {
    /// Asks with a token; a reply that says no is [`SecretStoreError::Denied`]
    /// and names what is missing.
    pub(super) async fn ask(
        &self,
        call: &Call,
        needs: Capability,
        hidden: &[&str],
    ) -> Result<Reply, SecretStoreError> {
        let reply = self.ask_within_quota(call).await?;
        if let Some(why) = fault::away(&reply, hidden) {
            return Err(self.http.unavailable(&why));
        }
        match reply.status {
            403 => Err(self.denied(call, needs).await),
            404 if fault::words(&reply, hidden).contains(fault::OTHER_VERSION) => {
                Err(self.version_changed().await)
            }
            _ => Ok(reply),
        }
    }

    /// Asks again, ever more seldom, while a quota refuses; not for ever.
    async fn ask_within_quota(&self, call: &Call) -> Result<Reply, SecretStoreError> {
        let end = Instant::now() + self.quota_wait_max;
        let mut pause = QUOTA_PAUSE_FIRST;
        loop {
            let reply = self.try_ask(call).await?;
            let wait = reply.retry_after.unwrap_or(pause).max(pause);
            if !fault::over_quota(&reply) || Instant::now() + wait > end {
                return Ok(reply);
            }
            sleep(wait).await;
            pause = (pause * 2).min(QUOTA_PAUSE_MAX);
        }
    }

    /// Asks with a token, and once more with another if it was refused.
    pub(super) async fn try_ask(&self, call: &Call) -> Result<Reply, SecretStoreError> {
        let token = self.tokens.get(&self.http).await?;
        let reply = self.http.send(call, token.secret.as_deref()).await?;
        if reply.status == 403 && self.tokens.replace(&self.http, &token).await? {
            let token = self.tokens.get(&self.http).await?;
            return self.http.send(call, token.secret.as_deref()).await;
        }
        Ok(reply)
    }

    async fn denied(&self, call: &Call, needs: Capability) -> SecretStoreError {
        if let Ok(Some(error)) = Box::pin(self.version_set_wrong()).await {
            return error;
        }
        let version = self.version().await.unwrap_or(KvVersion::V2);
        let (why, cure) = match self.capabilities(&call.path).await {
            None => (
                format!(
                    "the token is wrong, has ended or was revoked, or it lacks the capability \
                     \"{}\" on \"{}\"",
                    needs.name(),
                    call.path
                ),
                "if the token is right, give it this policy",
            ),
            Some(has) if has.iter().any(|name| name == needs.name() || name == "root") => (
                format!(
                    "the token has the capability \"{}\" on \"{}\", so something else forbids it \
                     (a policy with required parameters, a quota, a Sentinel rule, the namespace)",
                    needs.name(),
                    call.path
                ),
                "what it needs is",
            ),
            Some(has) => (
                format!(
                    "the token lacks the capability \"{}\" on \"{}\" (it has: {})",
                    needs.name(),
                    call.path,
                    has.join(", ")
                ),
                "give it this policy",
            ),
        };
        SecretStoreError::Denied(format!(
            "Vault at {} refuses to {} \"{}\": {why}; {cure}:\n\n{}",
            self.http.address(),
            needs.name(),
            call.path,
            fault::policy(version, &self.mount, &self.path),
        ))
    }

    /// What the token may do with a path; nothing when it may not ask.
    async fn capabilities(&self, path: &str) -> Option<Vec<String>> {
        #[derive(Deserialize)]
        struct Capabilities {
            capabilities: Vec<String>,
        }
        let token = self.tokens.get(&self.http).await.ok()?;
        let body = json(&serde_json::json!({ "paths": [path] }));
        let call = Call::post("sys/capabilities-self", body);
        let reply = self.http.send(&call, token.secret.as_deref()).await.ok()?;
        let parsed: Data<Capabilities> = serde_json::from_slice(&reply.body).ok()?;
        (reply.status == 200).then_some(parsed.data.capabilities)
    }

    /// A reply's content.
    pub(super) fn parsed<'a, T: Deserialize<'a>>(
        &self,
        reply: &'a Reply,
        what: &str,
    ) -> Result<T, SecretStoreError> {
        serde_json::from_slice(&reply.body).map_err(|_| self.odd(reply, what, &[]))
    }

    /// A reply that does not fit the question.
    pub(super) fn odd(&self, reply: &Reply, what: &str, hidden: &[&str]) -> SecretStoreError {
        self.http.unavailable(&format!(
            "it answered {what} with status {} and what this is not{}; see who answers there, and \
             Vault's log",
            reply.status,
            fault::said(reply, hidden),
        ))
    }
}
