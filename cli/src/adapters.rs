//! Which adapters a server runs on; the only place that names them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use key_server_projections::redis::{RedisMode, RedisSettings, RedisTls, RedisUrl};
use key_server_projections::{ProjectionError, RedisProjection, SqliteProjection};
use key_server_secrets::{
    AgeFileStore, IdentitySource, KvVersion, OfflineCopy, SecretId, SecretStore, SignIn,
    VaultSettings, VaultStore, VaultTls, read_secret_file,
};
use key_server_server::config::{self, Offline, Settings, VaultAuth};
use key_server_server::fleet::FleetParts;
use key_server_server::keys::OfflineKeys;
use key_server_server::lifecycle::{Background, Confine, Parts};
use key_server_server::state_dir::StateDir;
use tokio::runtime::Handle;

use crate::failure::Failure;
use crate::place;
use crate::settings::Resolved;

/// Everything that a server is made of. Contacts nobody.
///
/// # Errors
/// What is wrong with settings or files, in words; exit code 2.
pub(crate) fn parts(
    resolved: Resolved,
    state_dir: StateDir,
    inherited: Option<OwnedFd>,
    csv_is_expected: bool,
    confine: Confine,
) -> Result<Parts, Failure> {
    let database = place::database(state_dir.path());
    let projection = open_projection(&database).map_err(unfit)?;
    let (store, background) = store(&resolved, state_dir.path())?;
    Ok(Parts {
        csv_is_expected,
        offline: offline(&resolved, state_dir.path())?,
        fleet: fleet(&resolved.settings, &state_dir.node_id)?,
        settings: resolved.settings,
        state_dir,
        inherited,
        store,
        projection: Box::new(projection),
        clock: None,
        background,
        notes: notes(),
        confine,
    })
}

fn notes() -> Vec<String> {
    let swapped = "memory cannot be locked, so the identity and the token for Vault may come to \
                   a swap device: raise LimitMEMLOCK (ulimit -l)";
    if key_server_sys::can_keep_in_ram() { Vec::new() } else { vec![swapped.to_owned()] }
}

/// Where the keys are kept, and what keeps it going.
fn store(
    resolved: &Resolved,
    state_dir: &Path,
) -> Result<(Arc<dyn SecretStore>, Vec<Background>), Failure> {
    if resolved.settings.vault_addr.is_empty() {
        return Ok((Arc::new(age_store(resolved, state_dir)?), Vec::new()));
    }
    let vault = Arc::new(vault_store(&resolved.settings)?);
    let renewing = Arc::clone(&vault);
    let renewal: Background = Box::pin(async move { renewing.run_renewal().await });
    Ok((vault, vec![renewal]))
}

/// The embedded store.
///
/// # Errors
/// When identity or store cannot be used.
pub(crate) fn age_store(resolved: &Resolved, state_dir: &Path) -> Result<AgeFileStore, Failure> {
    let identity = identity(resolved, state_dir)?;
    AgeFileStore::open(state_dir, &identity).map_err(unfit)
}

/// The store in Vault.
///
/// # Errors
/// When a setting is wrong, or missing.
pub(crate) fn vault_store(settings: &Settings) -> Result<VaultStore, Failure> {
    let sign_in = sign_in(settings)?;
    let vault = VaultSettings {
        namespace: named(&settings.vault_namespace),
        mount: settings.vault_mount.clone(),
        path: settings.vault_path.clone(),
        kv_version: match settings.vault_kv_version.as_str() {
            "1" => Some(KvVersion::V1),
            "2" => Some(KvVersion::V2),
            _ => None,
        },
        token_is_wrapped: settings.vault_token_wrapped,
        tls: VaultTls {
            ca_cert: file(&settings.vault_cacert),
            client_cert: file(&settings.vault_client_cert),
            client_key: file(&settings.vault_client_key),
            skip_verify: settings.vault_skip_verify,
        },
        request_timeout: settings.vault_timeout,
        ..VaultSettings::new(settings.vault_addr.clone(), sign_in)
    };
    VaultStore::new(vault).map_err(unfit)
}

fn sign_in(settings: &Settings) -> Result<SignIn, Failure> {
    let mount = |default: &str| named(&settings.vault_auth_mount).unwrap_or(default.to_owned());
    Ok(match settings.vault_auth {
        VaultAuth::Agent => SignIn::Agent,
        VaultAuth::Certificate => {
            SignIn::Certificate { mount: mount("cert"), name: named(&settings.vault_role) }
        }
        VaultAuth::Kubernetes => SignIn::Kubernetes {
            mount: mount("kubernetes"),
            role: needed(&settings.vault_role, "KEY_SERVER_VAULT_ROLE")?,
            jwt_file: settings.vault_jwt_file.clone(),
        },
        VaultAuth::AppRole => SignIn::AppRole {
            mount: mount("approle"),
            role_id: needed(&settings.vault_role_id, "KEY_SERVER_VAULT_ROLE_ID")?,
            secret_id: SecretId::File(
                file(&settings.vault_secret_id_file)
                    .ok_or_else(|| missing("KEY_SERVER_VAULT_SECRET_ID_FILE"))?,
            ),
        },
        VaultAuth::Token => token(settings)?,
    })
}

/// The token that is given, else the file with it.
fn token(settings: &Settings) -> Result<SignIn, Failure> {
    if let Some(token) = settings.vault_token.secret() {
        return Ok(SignIn::Token(token));
    }
    match file(&settings.vault_token_file) {
        Some(file) => Ok(SignIn::TokenFile(file)),
        None if settings.vault_addr.starts_with("unix://") => Ok(SignIn::Agent),
        None => Err(Failure::usage("VAULT_ADDR is set, but nothing to sign in with")
            .hint("set VAULT_TOKEN, VAULT_TOKEN_FILE or KEY_SERVER_VAULT_AUTH")
            .hint("or unset VAULT_ADDR to keep the keys in the embedded store")),
    }
}

/// The copy of what Vault last gave, if one is to be kept.
fn offline(resolved: &Resolved, state_dir: &Path) -> Result<Option<OfflineKeys>, Failure> {
    let settings = &resolved.settings;
    if settings.vault_addr.is_empty() || settings.offline == Offline::Wait {
        return Ok(None);
    }
    let identity = identity(resolved, state_dir)?;
    let copy = OfflineCopy::open(state_dir, &identity).map_err(unfit)?;
    Ok(Some(OfflineKeys { copy, stale_max: settings.offline_stale_max }))
}

/// The other nodes, if there is a Redis to meet them in.
fn fleet(settings: &Settings, node: &str) -> Result<Option<FleetParts>, Failure> {
    let Some(addresses) = settings.redis_url.expose() else { return Ok(None) };
    let urls = RedisUrl::list(addresses)
        .map_err(|error| Failure::usage(format!("KEY_SERVER_REDIS_URL cannot be used: {error}")))?;
    let is_cluster = settings.redis_mode == config::RedisMode::Cluster;
    if is_cluster && urls.iter().any(|url| url.database != 0) {
        let text = "KEY_SERVER_REDIS_URL names a database, and a cluster has only one";
        return Err(Failure::usage(text).hint("leave the number out"));
    }
    let redis = RedisSettings {
        urls,
        mode: redis_mode(settings),
        username: None,
        password_file: file(&settings.redis_password_file),
        tls: RedisTls {
            ca_cert: file(&settings.redis_ca_cert),
            client_cert: file(&settings.redis_client_cert),
            client_key: file(&settings.redis_client_key),
        },
        timeout: settings.redis_timeout,
        node: node.into(),
    };
    let projection = RedisProjection::new(redis, Handle::current());
    let port = projection.fleet();
    Ok(Some(FleetParts { projection: Box::new(projection), port }))
}

fn redis_mode(settings: &Settings) -> RedisMode {
    match settings.redis_mode {
        config::RedisMode::Single => RedisMode::Single,
        config::RedisMode::Cluster => RedisMode::Cluster,
        config::RedisMode::Sentinel => RedisMode::Sentinel {
            master: settings.redis_sentinel_master.clone(),
            password_file: file(&settings.redis_sentinel_password_file),
        },
    }
}

/// A database that is no use any more is made anew: it adds up again from the
/// ledger.
fn open_projection(database: &Path) -> Result<SqliteProjection, ProjectionError> {
    SqliteProjection::open(database).or_else(|error| match error {
        ProjectionError::Corrupt { .. } => {
            tracing::warn!("making the local database anew from the ledger: {error}");
            SqliteProjection::delete(database)?;
            SqliteProjection::open(database)
        }
        error => Err(error),
    })
}

/// The identity of the embedded store and of the offline copy.
///
/// # Errors
/// When the passphrase cannot be read.
pub(crate) fn identity(resolved: &Resolved, state_dir: &Path) -> Result<IdentitySource, Failure> {
    let settings = &resolved.settings;
    if settings.passphrase_file != Path::new("") {
        let passphrase = read_secret_file(&settings.passphrase_file).map_err(unfit)?;
        return Ok(IdentitySource::Passphrase(Arc::new(passphrase)));
    }
    let beside = place::identity_file(settings, &resolved.environment, state_dir);
    if settings.identity_file != Path::new("") {
        Ok(IdentitySource::File(beside))
    } else if beside.starts_with(state_dir) {
        Ok(IdentitySource::StateDirectory)
    } else {
        Ok(IdentitySource::Credential(beside))
    }
}

fn file(path: &Path) -> Option<PathBuf> {
    (path != Path::new("")).then(|| path.to_owned())
}

fn named(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn needed(text: &str, variable: &str) -> Result<String, Failure> {
    named(text).ok_or_else(|| missing(variable))
}

fn missing(variable: &str) -> Failure {
    Failure::usage(format!("KEY_SERVER_VAULT_AUTH needs {variable}, which is not set"))
}

fn unfit(error: impl ToString) -> Failure {
    Failure::usage(error.to_string())
}
