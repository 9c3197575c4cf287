//! The CSV with the keys.

use key_server_secrets::{CsvLimits, Force, import_csv, plan};

use crate::scratch;

/// A file of these bytes is imported, or each problem has a line; nothing that
/// is imported, and nothing that is said, is more than the file holds.
pub fn run(bytes: &[u8]) {
    scratch::within(|dir| {
        let path = scratch::write(dir, "api_keys.csv", bytes);
        let limits = CsvLimits::default();
        let import = import_csv(&path, &limits);
        let lines = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
        for problem in &import.problems {
            assert!(problem.line.is_none_or(|line| line as usize <= lines), "{problem}");
            assert!(!problem.message.is_empty());
        }
        let text = String::from_utf8_lossy(bytes);
        for key in &import.keys {
            let said = import.problems.iter().map(ToString::to_string).collect::<String>();
            let secret = key.secret.expose();
            // What stands elsewhere too, as the name of a column say, is shown
            // for being that.
            let is_only_a_secret = text.matches(secret).count() == 1 && !is_word(secret);
            assert!(!is_only_a_secret || !said.contains(secret), "a problem repeats a credential");
        }
        if let Ok(plan) = plan(&[], &import, "csv@n_fuzz", Force::No) {
            assert!(plan.change.remove.is_empty());
            assert!(plan.change.put.len() <= import.keys.len());
        }
    });
}

/// What a problem may say for reasons of its own, such as a column's name.
fn is_word(text: &str) -> bool {
    text.len() < 12 || text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
