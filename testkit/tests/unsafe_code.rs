//! Only the crate `sys` goes around the compiler's checks.
//!
//! The workspace's lints forbid it, and what is forbidden cannot be allowed
//! again in a crate: rustc refuses the attribute. What is left is a crate that
//! does not take the workspace's lints, or lints that were loosened; that, and
//! the word itself wherever rustc does not look, is found here.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::workspace::{packages, root};

mod workspace;

/// The keyword, and the beginning of the lint's name.
const WORD: &str = concat!("un", "safe");

/// The only crate that may.
const SYS: &str = "key-server-sys";
/// The fuzzer's entry, a C function, is a macro's of another crate in each of
/// its programs; its own code has nothing of the kind, as for all others.
const FUZZ: &str = "key-server-fuzz";

#[test]
fn no_source_but_of_one_crate_has_the_word() {
    let sys = root().join("sys");
    let mut sources = Vec::new();
    sources_below(&root(), &mut sources);
    assert!(sources.len() > 100, "{} sources were found", sources.len());
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.starts_with(&sys)) {
        let text = std::fs::read_to_string(source).expect("a source is text");
        found.extend(lines_with_the_word(&text).map(|line| format!("{}:{line}", source.display())));
    }
    assert!(found.is_empty(), "only the crate `sys` may be {WORD}: {found:#?}");
}

#[test]
fn every_crate_takes_the_lints_that_forbid_it() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).expect("it is there");
    let lint = format!("{WORD}_code = \"forbid\"");
    let lints = section(&workspace, "[workspace.lints.rust]");
    assert!(lints.contains(&lint.as_str()), "the workspace's lints have no {lint}");

    let others = manifests().into_iter().filter(|(name, _)| name != SYS && name != FUZZ);
    let loose = others.filter(|(_, manifest)| {
        let manifest = std::fs::read_to_string(manifest).expect("cargo has read it too");
        section(&manifest, "[lints]") != ["workspace = true"]
    });
    let loose: Vec<String> = loose.map(|(name, _)| name).collect();
    assert!(loose.is_empty(), "without `[lints]` and `workspace = true`: {loose:?}");
}

#[test]
fn the_word_is_found_where_it_counts() {
    let text = [
        format!("#![allow({WORD}_code)]"),
        format!("// what is {WORD} is for others"),
        format!("    {WORD} {{ call() }} // reason"),
        format!("/// {WORD}"),
        format!("let text = \"//\"; {WORD} {{ call() }}"),
    ];
    let lines: Vec<usize> = lines_with_the_word(&text.join("\n")).collect();
    assert_eq!(lines, [1, 3, 5]);
}

#[test]
fn sections_end_where_the_next_begins() {
    let manifest = "[a]\none = 1\n\n# why\ntwo = 2\n[a.b]\nthree = 3\n";
    assert_eq!(section(manifest, "[a]"), ["one = 1", "two = 2"]);
    assert!(section(manifest, "[c]").is_empty());
}

/// Numbers of lines, from 1, that have the word and are not all comment.
fn lines_with_the_word(text: &str) -> impl Iterator<Item = usize> {
    let lines = text.lines().zip(1..);
    let code = lines.filter(|(line, _)| !line.trim_start().starts_with("//"));
    code.filter(|(line, _)| line.contains(WORD)).map(|(_, number)| number)
}

/// The lines of a manifest's table, without empty ones and comments.
fn section<'text>(manifest: &'text str, title: &str) -> Vec<&'text str> {
    let after = manifest.lines().skip_while(|line| *line != title).skip(1);
    let table = after.take_while(|line| !line.starts_with('['));
    table.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Every Rust file, but not what cargo made, and nothing hidden.
fn sources_below(folder: &Path, sources: &mut Vec<PathBuf>) {
    if folder.join("CACHEDIR.TAG").exists() {
        return;
    }
    for entry in std::fs::read_dir(folder).expect("it is a folder") {
        let entry = entry.expect("it can be read");
        let kind = entry.file_type().expect("the system knows");
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            sources_below(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}

/// Each crate of the workspace, and where its manifest is.
fn manifests() -> Vec<(String, PathBuf)> {
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    let manifest = |package: &Value| PathBuf::from(text(&package["manifest_path"]));
    packages().iter().map(|package| (text(&package["name"]), manifest(package))).collect()
}
