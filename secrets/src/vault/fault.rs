//! What Vault's refusals mean, in words that say what to do.

use serde::Deserialize;

use super::http::Reply;
use super::settings::KvVersion;

/// What an engine of version 2 says to a question for version 1.
pub(super) const OTHER_VERSION: &str = "Invalid path for a versioned K/V secrets engine";

const WORDS_CHARS_MAX: usize = 300;

/// What a request needs of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    List,
    Read,
    Create,
    Update,
    Delete,
}

impl Capability {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// What a token needs to look itself up, to be renewed, and to say what it
/// lacks. Vault's `default` policy has it, too, and much else, which makes
/// every request twice as dear.
const OF_ITSELF: &str = r#"path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
"#;

/// The least policy that the adapter works with, without Vault's `default`,
/// ready for `vault policy write`.
pub(super) fn policy(version: KvVersion, mount: &str, path: &str) -> String {
    let of_keys = match version {
        KvVersion::V1 => format!(
            r#"path "{mount}/{path}" {{ capabilities = ["list"] }}
path "{mount}/{path}/*" {{ capabilities = ["create", "read", "update", "delete"] }}
"#
        ),
        KvVersion::V2 => format!(
            r#"path "{mount}/metadata/{path}" {{ capabilities = ["list"] }}
path "{mount}/metadata/{path}/*" {{ capabilities = ["read"] }}
path "{mount}/data/{path}/*" {{ capabilities = ["create", "read", "update"] }}
path "{mount}/delete/{path}/*" {{ capabilities = ["update"] }}
"#
        ),
    };
    of_keys + OF_ITSELF
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Vault's own words in a reply, without anything of `hidden`; empty when it
/// has none.
pub(super) fn words(reply: &Reply, hidden: &[&str]) -> String {
    let Ok(said) = serde_json::from_slice::<Errors>(&reply.body) else {
        return String::new();
    };
    let said = said.errors.into_iter().chain(said.warnings.unwrap_or_default());
    let said = said.collect::<Vec<_>>().join("; ");
    if hidden.iter().any(|secret| !secret.is_empty() && said.contains(secret)) {
        return String::from("(its words held a secret and are left out)");
    }
    let plain = said.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(WORDS_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// `: ` and the words, or nothing.
pub(super) fn said(reply: &Reply, hidden: &[&str]) -> String {
    match words(reply, hidden) {
        words if words.is_empty() => String::new(),
        words => format!(": {words}"),
    }
}

/// Whether a quota refused; a standby says the same status without a word.
pub(super) fn over_quota(reply: &Reply) -> bool {
    reply.status == 429 && !words(reply, &[]).is_empty()
}

/// Why a reply of this status says that Vault cannot serve now; nothing when
/// it can.
pub(super) fn away(reply: &Reply, hidden: &[&str]) -> Option<String> {
    let said = said(reply, hidden);
    let reason = match reply.status {
        429 if said.is_empty() => String::from("it is a standby that serves nothing (429)"),
        429 => format!("it is asked too often (429{said}); see its quotas"),
        412 => String::from("this node has not caught up yet (412)"),
        472 | 473 => format!("it is a standby of another cluster ({})", reply.status),
        501 => String::from("it is not initialised (501); run: vault operator init"),
        503 if said.contains("sealed") => {
            String::from("it is sealed (503); run: vault operator unseal")
        }
        503 => format!("it does not serve now (503{said}); see: vault status"),
        status if status >= 500 => format!("it failed ({status}{said}); see its log"),
        _ => return None,
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, retry_after: None, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    #[test]
    fn policies_are_on_the_page_for_people() {
        let page = include_str!("../../../docs/vault.md");
        for version in [KvVersion::V1, KvVersion::V2] {
            let policy = policy(version, "secret", "key-server/keys");
            assert!(page.contains(&format!("```hcl\n{policy}```")), "{policy}");
        }
    }

    #[test]
    fn words_never_repeat_a_secret() {
        let reply = reply(400, r#"{"errors":["no fake-canary here","or\nthere"]}"#);
        assert_eq!(words(&reply, &["fake-other"]), "no fake-canary here; or there");
        assert!(!words(&reply, &["fake-canary"]).contains("canary"));
    }

    #[test]
    fn replies_that_mean_away_say_why() {
        for (status, body, expected) in [
            (503, r#"{"errors":["Vault is sealed"]}"#, "vault operator unseal"),
            (503, "gateway", "does not serve now (503)"),
            (429, r#"{"errors":["request path \"x\": rate limit quota exceeded"]}"#, "too often"),
            (429, "", "standby"),
            (500, r#"{"errors":["disk full"]}"#, "it failed (500: disk full)"),
        ] {
            let text = away(&reply(status, body), &[]).unwrap();
            assert!(text.contains(expected), "{text}");
        }
        for status in [200, 204, 400, 403, 404] {
            assert_eq!(away(&reply(status, ""), &[]), None);
        }
    }
}
