//! The keys file: a CSV that people write. `docs/csv.md` is the page for them.

mod file;
mod header;
mod keys;
mod plausible;
mod problem;
mod row;
mod rows;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use key_server_core::{KeyId, ModelName, OwnWeight};

use crate::SecretKey;
use header::Header;
use keys::KeysByRow;
use problem::Problems;
pub use problem::{Problem, Severity};
use rows::Rows;

/// What a CSV may not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvLimits {
    /// The file's size; 256 MiB by default.
    pub file_bytes_max: u64,
    /// Rows with content, the header excepted; 1,000,000 by default.
    pub rows_max: u32,
    /// One credential; 4,096 bytes by default.
    pub secret_bytes_max: usize,
}

impl Default for CsvLimits {
    fn default() -> Self {
        Self { file_bytes_max: 256 << 20, rows_max: 1_000_000, secret_bytes_max: 4_096 }
    }
}

/// What a CSV says.
#[derive(Debug)]
pub struct Import {
    /// The keys it lists, each once, sorted by id; none when a row is bad, as
    /// a CSV with a bad row changes nothing.
    pub keys: Vec<ImportedKey>,
    /// What is wrong with it or looks wrong, in the order of its lines; at
    /// most 1,000 errors and 1,000 warnings, then how many more there are.
    pub problems: Vec<Problem>,
    /// How many errors there are, also those that are not in the list.
    pub errors_count: usize,
}

/// One key of a CSV: one credential of one provider, with all its rows.
#[derive(Clone)]
pub struct ImportedKey {
    /// Its id.
    pub id: KeyId,
    /// The models it is listed under, sorted, each once; at least one.
    pub models: Vec<ModelName>,
    /// Its own weight, if a row gives one.
    pub own_weight: Option<OwnWeight>,
    /// Its cap, if a row gives one.
    pub max_holders: Option<NonZeroU32>,
    /// Its label, if a row gives one.
    pub label: Option<Arc<str>>,
    /// The credential.
    pub secret: Arc<SecretKey>,
}

/// Shows the facts, never the credential.
impl std::fmt::Debug for ImportedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportedKey")
            .field("id", &self.id)
            .field("models", &self.models)
            .field("own_weight", &self.own_weight)
            .field("max_holders", &self.max_holders)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// Reads the CSV at `path`. Blocks on the disk.
///
/// Whatever is wrong is in [`Import::problems`]: every bad row, and the file as
/// a whole when it is missing, unreadable, too large or not text. No message
/// holds a credential.
pub fn import_csv(path: &Path, limits: &CsvLimits) -> Import {
    let mut problems = Problems::of(path);
    let keys = match file::read(path, limits.file_bytes_max, &mut problems) {
        Some(bytes) => import_bytes(&bytes, limits, &mut problems),
        None => Vec::new(),
    };
    problems.into_import(keys)
}

fn import_bytes(bytes: &[u8], limits: &CsvLimits, problems: &mut Problems) -> Vec<ImportedKey> {
    let Some(text) = file::text(bytes, problems) else {
        return Vec::new();
    };
    let mut rows = Rows::of(text);
    let Some(header) = Header::read(&mut rows, problems) else {
        return Vec::new();
    };
    let mut keys = KeysByRow::default();
    let mut count = 0;
    while let Some(row) = rows.next_row() {
        count += 1;
        if count > limits.rows_max {
            problems.error(Some(row.line), None, too_many_rows(limits.rows_max));
            break;
        }
        if let Some(entry) = row::read(&header, &row, limits, problems) {
            keys.add(entry, problems);
        }
    }
    keys.into_keys()
}

fn too_many_rows(rows_max: u32) -> String {
    format!("there are more than {rows_max} rows; split the file or raise the limit")
}

#[cfg(test)]
mod tests;
