//! Looking for canaries: keys that are nowhere else by accident.

use std::fs;
use std::path::Path;

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

/// So much of a canary is a leak; a masked key shows less.
const WINDOW_BYTES: usize = 8;

/// Leaks in every file below `dir`, but for those of the names `except`.
///
/// # Panics
/// When a file cannot be read.
pub fn leaks_in(canaries: &[&str], dir: &Path, except: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let (path, kind) = (entry.path(), entry.file_type().expect("it can be read"));
        if kind.is_dir() {
            found.extend(leaks_in(canaries, &path, except));
        } else if kind.is_file() && !except.iter().any(|name| entry.file_name() == *name) {
            found.extend(leaks(
                canaries,
                &path.display().to_string(),
                &fs::read(&path).expect("it can be read"),
            ));
        }
    }
    found
}

/// Which canaries, in any form, are in the bytes of this place.
pub fn leaks(canaries: &[&str], place: &str, bytes: &[u8]) -> Vec<String> {
    let is_there = |needle: &[u8]| {
        bytes.windows(needle.len()).any(|window| window[0] == needle[0] && window == needle)
    };
    let leaked = |canary: &&&str| forms(canary).iter().any(|form| is_there(form));
    let leaked = canaries.iter().filter(leaked);
    leaked.map(|canary| format!("{canary} in {place}")).collect()
}

fn forms(canary: &str) -> Vec<Vec<u8>> {
    let bytes = canary.as_bytes();
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    let windows =
        |bytes: &[u8]| bytes.windows(WINDOW_BYTES).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let some = &bytes[..12];
    let mut forms = [windows(bytes), windows(&reversed)].concat();
    forms.push(HEXLOWER.encode(some).into_bytes());
    forms.push(HEXUPPER.encode(some).into_bytes());
    // As `{:?}` shows bytes.
    forms.push(format!("{some:?}").trim_matches(['[', ']']).as_bytes().to_vec());
    for start in 0..3 {
        // Whole groups of three bytes, wherever the text before them ended.
        forms.push(BASE64.encode(&bytes[start..start + 12]).into_bytes());
        forms.push(BASE64URL.encode(&bytes[start..start + 12]).into_bytes());
    }
    forms
}
