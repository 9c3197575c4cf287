//! Credentials: how they are owned, kept and imported.
//!
//! A credential lives in exactly one type, [`SecretKey`], and in three places:
//! the import path ([`import_csv`] and [`plan`]), a [`SecretStore`], and the
//! reply of the server. Everything else names keys by their id ([`key_id`]).
//!
//! [`SecretStore`] is the port; [`AgeFileStore`] keeps the keys in one
//! age-encrypted file beside the ledger, [`VaultStore`] in HashiCorp Vault.
//! This crate knows nothing of the
//! ledger, of projections, of gRPC or of settings.

mod age_file;
mod atomic_file;
mod csv;
mod limits;
mod offline_copy;
mod plan;
mod private_file;
mod secret_key;
mod store;
mod stored_key;
mod vault;

/// For those who implement [`SecretStore`].
pub use async_trait::async_trait;

pub use age_file::{AgeFileStore, IdentitySource, Rotated, rotate_identity};
pub use csv::{CsvLimits, Import, ImportedKey, Problem, Severity, import_csv};
pub use offline_copy::OfflineCopy;
pub use plan::{Force, Plan, Refusal, Summary, is_too_many, plan, united};
pub use private_file::read_secret_file;
pub use secret_key::{SecretKey, key_id};
pub use store::{SecretStore, SecretStoreError};
pub use stored_key::{Change, StoredKey};
pub use vault::{KvVersion, SecretId, SignIn, VaultHealth, VaultSettings, VaultStore, VaultTls};
