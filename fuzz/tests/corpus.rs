//! Every file of the corpus, through its target: what a fuzzer found once is
//! never found again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use key_server_fuzz::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

#[test]
fn every_target_bears_its_corpus() {
    let mut failed = Vec::new();
    for (name, run) in TARGETS {
        let files = entries(&corpus().join(name));
        assert!(files.len() >= 2, "{name} has a corpus");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            if catch_unwind(AssertUnwindSafe(|| run(&bytes))).is_err() {
                failed.push(file);
            }
        }
        run(&[]);
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn every_folder_of_the_corpus_has_a_target_and_a_binary() {
    let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let folders: BTreeSet<_> = entries(&corpus()).into_iter().map(name).collect();
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let binaries = entries(&corpus().join("../fuzz_targets")).into_iter().map(name);
    assert_eq!(folders, targets);
    assert_eq!(binaries.collect::<BTreeSet<_>>(), targets);
}
