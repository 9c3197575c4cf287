//! The ways to a token.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::fault;
use super::http::{Call, Http, Reply};
use super::settings::{SecretId, SignIn};
use crate::private_file::{self, Guard};
use crate::{SecretKey, SecretStoreError};

const JWT_BYTES_MAX: u64 = 64 * 1024;

/// A token as Vault gave it.
pub(super) struct Granted {
    pub(super) token: Arc<SecretKey>,
    /// How long it lives; none: for ever, or not known.
    pub(super) ttl: Option<Duration>,
    pub(super) renewable: bool,
}

/// The `auth` part of a reply.
#[derive(Deserialize)]
struct Auth {
    client_token: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct AuthReply {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct LookupReply {
    data: Lookup,
}

#[derive(Deserialize)]
struct Lookup {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

fn granted(reply: &Reply) -> Option<Granted> {
    let auth = serde_json::from_slice::<AuthReply>(&reply.body).ok()?.auth?;
    let token = Arc::new(SecretKey::from_owned(auth.client_token));
    Some(Granted { token, ttl: ttl(auth.lease_duration), renewable: auth.renewable })
}

fn ttl(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Signs in with role and secret id, service account or certificate.
///
/// # Errors
/// `Denied` when Vault refuses what was shown; `Unavailable` when it is away.
pub(super) async fn log_in(http: &Http, sign_in: &SignIn) -> Result<Granted, SecretStoreError> {
    match sign_in {
        SignIn::AppRole { mount, role_id, secret_id } => {
            let secret_id = match secret_id {
                SecretId::Value(value) => Arc::clone(value),
                SecretId::File(path) => Arc::new(read_guarded(path)?),
            };
            #[derive(Serialize)]
            struct Body<'a> {
                role_id: &'a str,
                secret_id: &'a str,
            }
            let body = Body { role_id, secret_id: secret_id.expose() };
            let advice = "check role id and secret id (used up, expired, or bound to another \
                          address?) and KEY_SERVER_VAULT_AUTH_MOUNT";
            post(http, sign_in, mount, &body, &[secret_id.expose()], advice).await
        }
        SignIn::Kubernetes { mount, role, jwt_file } => {
            let jwt = read_jwt(jwt_file)?;
            #[derive(Serialize)]
            struct Body<'a> {
                role: &'a str,
                jwt: &'a str,
            }
            let body = Body { role, jwt: jwt.expose() };
            let advice = "check the role, its bound service accounts and namespaces, and that \
                          Vault can reach the cluster's token review";
            post(http, sign_in, mount, &body, &[jwt.expose()], advice).await
        }
        SignIn::Certificate { mount, name } => {
            #[derive(Serialize)]
            struct Body<'a> {
                #[serde(skip_serializing_if = "Option::is_none")]
                name: Option<&'a str>,
            }
            let body = Body { name: name.as_deref() };
            let advice = "check that a certificate role trusts VAULT_CLIENT_CERT, that it has not \
                          expired, and KEY_SERVER_VAULT_AUTH_MOUNT";
            post(http, sign_in, mount, &body, &[], advice).await
        }
        SignIn::Token(_) | SignIn::TokenFile(_) | SignIn::Agent => {
            Err(SecretStoreError::Denied(String::from("a token cannot be got again; give another")))
        }
    }
}

async fn post(
    http: &Http,
    sign_in: &SignIn,
    mount: &str,
    body: &impl Serialize,
    hidden: &[&str],
    advice: &str,
) -> Result<Granted, SecretStoreError> {
    let mount = mount.trim_matches('/');
    let call = Call::post(format!("auth/{mount}/login"), json(body));
    let reply = http.send(&call, None).await?;
    if let Some(why) = fault::away(&reply, hidden) {
        return Err(http.unavailable(&why));
    }
    if reply.status == 200 {
        return granted(&reply).ok_or_else(|| {
            http.unavailable("its answer to the sign-in holds no token; find out who answers there")
        });
    }
    Err(SecretStoreError::Denied(format!(
        "Vault at {} refuses the sign-in by {} at auth/{mount} ({}{}): {advice}",
        http.address(),
        sign_in.name(),
        reply.status,
        fault::said(&reply, hidden),
    )))
}

/// The token that a response-wrapping token stands for, once.
pub(super) async fn unwrap(http: &Http, wrapping: &SecretKey) -> Result<Granted, SecretStoreError> {
    let call = Call::post("sys/wrapping/unwrap", json(&serde_json::json!({})));
    let reply = http.send(&call, Some(wrapping)).await?;
    let hidden = [wrapping.expose()];
    if let Some(why) = fault::away(&reply, &hidden) {
        return Err(http.unavailable(&why));
    }
    match granted(&reply) {
        Some(granted) if reply.status == 200 => Ok(granted),
        _ => Err(SecretStoreError::Denied(format!(
            "Vault at {} does not unwrap the wrapped token ({}{}): it expired or was used before. \
             If nobody here used it, it may have been intercepted: revoke what it wrapped, find \
             out who did, and give a new one",
            http.address(),
            reply.status,
            fault::said(&reply, &hidden),
        ))),
    }
}

/// How long a token lives, if it may be asked; nothing when Vault refuses to
/// say: then it is not alive, or may not ask.
pub(super) async fn look_up(
    http: &Http,
    token: &Arc<SecretKey>,
) -> Result<Option<Granted>, SecretStoreError> {
    let reply = http.send(&Call::get("auth/token/lookup-self"), Some(token)).await?;
    if let Some(why) = fault::away(&reply, &[token.expose()]) {
        return Err(http.unavailable(&why));
    }
    if reply.status != 200 {
        return Ok(None);
    }
    let Ok(found) = serde_json::from_slice::<LookupReply>(&reply.body) else {
        return Ok(None);
    };
    let Lookup { ttl: seconds, renewable } = found.data;
    Ok(Some(Granted { token: Arc::clone(token), ttl: ttl(seconds), renewable }))
}

/// The same token for longer; nothing when Vault refuses, or has nothing to
/// add.
pub(super) async fn renew(
    http: &Http,
    token: &SecretKey,
) -> Result<Option<Granted>, SecretStoreError> {
    let call = Call::post("auth/token/renew-self", json(&serde_json::json!({})));
    let reply = http.send(&call, Some(token)).await?;
    if let Some(why) = fault::away(&reply, &[token.expose()]) {
        return Err(http.unavailable(&why));
    }
    let renewed = if reply.status == 200 { granted(&reply) } else { None };
    Ok(renewed.filter(|granted| granted.ttl.is_some()))
}

/// A secret from a file that someone else may own, such as a Vault agent.
pub(super) fn read_guarded(path: &Path) -> Result<SecretKey, SecretStoreError> {
    let Some(bytes) = private_file::read(path, Guard::Directory)? else {
        return Err(missing(path));
    };
    secret_of(path, &bytes)
}

/// A service account's token: the kubelet makes it readable for all in the
/// container.
fn read_jwt(path: &Path) -> Result<SecretKey, SecretStoreError> {
    let io_error = |error| SecretStoreError::from_io("read", path, &error);
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(path),
        _ => io_error(error),
    })?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    file.take(JWT_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error)?;
    secret_of(path, &bytes)
}

fn missing(path: &Path) -> SecretStoreError {
    SecretStoreError::Denied(format!(
        "{} does not exist: put the file there, or correct the setting that names it",
        path.display()
    ))
}

fn secret_of(path: &Path, bytes: &[u8]) -> Result<SecretKey, SecretStoreError> {
    let text = std::str::from_utf8(bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SecretStoreError::Corrupt(format!(
            "{} does not hold one line of text: write the secret into it",
            path.display()
        )));
    }
    Ok(SecretKey::copy_of(text))
}

/// Wiped when dropped; with room enough that it does not move while it is
/// written.
pub(super) fn json(content: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(96 * 1024));
    serde_json::to_writer(&mut *body, content)
        .expect("texts are JSON, and memory takes every write");
    body
}
