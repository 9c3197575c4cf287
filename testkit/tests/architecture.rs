//! `ARCHITECTURE.md` and the crates that cargo sees say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::workspace::{packages, root};

mod workspace;

/// What each crate uses of ours, by name.
type Arrows = BTreeMap<String, BTreeSet<String>>;

const NONE: &str = "–";

#[test]
fn every_crate_and_arrow_is_on_the_page_and_nothing_else_is() {
    let (page, seen) = (arrows_of_page(), arrows_of_cargo());
    let differences = differences(&page, &seen);
    assert!(differences.is_empty(), "ARCHITECTURE.md:\n{}", differences.join("\n"));
}

#[test]
fn every_crate_has_its_folder_on_the_page() {
    let folders = folders_of_page();
    for (name, folder) in folders_of_cargo() {
        assert!(folders.contains(&folder), "{name}: no row for {}/", folder.display());
    }
}

#[test]
fn every_folder_on_the_page_exists() {
    for folder in folders_of_page() {
        assert!(root().join(&folder).is_dir(), "there is no {}/", folder.display());
    }
}

/// A ledger that writes nothing is for the benchmark; no daemon may be built so.
#[test]
fn only_the_benchmark_can_do_without_the_record() {
    let feature = |package: &&Value| {
        let dependencies = package["dependencies"].as_array().expect("cargo lists them");
        let asked =
            dependencies.iter().any(|one| one["features"].to_string().contains("unwritten"));
        let own = package["features"].as_object().expect("cargo lists them");
        asked || own.values().any(|one| one.to_string().contains("unwritten"))
    };
    let packages = packages();
    let who: Vec<_> = packages.iter().filter(feature).map(name).collect();
    assert_eq!(who, ["key-server-bench"]);
}

#[test]
fn a_missing_and_a_superfluous_arrow_are_both_named() {
    let arrows = |text: &str| arrows(text.lines());
    let page = arrows("| `a` | `b`, `c` |\n| `b` | – |\n| `d` | – |");
    let seen = arrows("| `a` | `b` |\n| `b` | `c` |\n| `c` | – |");
    let named = differences(&page, &seen);
    assert_eq!(
        named,
        [
            "`a` does not use `c`: take it off the page",
            "`b` uses `c`: not allowed",
            "`c` is not on the page",
            "`d` is on the page and no crate of the workspace",
        ]
    );
}

fn differences(page: &Arrows, seen: &Arrows) -> Vec<String> {
    let names: BTreeSet<_> = page.keys().chain(seen.keys()).collect();
    let differences = names.into_iter().flat_map(|name| match (page.get(name), seen.get(name)) {
        (Some(page), Some(seen)) => of_crate(name, page, seen),
        (None, _) => vec![format!("`{name}` is not on the page")],
        (_, None) => vec![format!("`{name}` is on the page and no crate of the workspace")],
    });
    differences.collect()
}

fn of_crate(name: &str, page: &BTreeSet<String>, seen: &BTreeSet<String>) -> Vec<String> {
    let gone = page.difference(seen);
    let gone = gone.map(|used| format!("`{name}` does not use `{used}`: take it off the page"));
    let new = seen.difference(page).map(|used| format!("`{name}` uses `{used}`: not allowed"));
    gone.chain(new).collect()
}

fn arrows_of_page() -> Arrows {
    let page = page();
    let table = page.split_once("| crate | uses |").expect("the page has a table of arrows").1;
    arrows(table.lines().skip(2).take_while(|line| line.starts_with('|')))
}

/// Rows as in "| `name` | `used`, `used` |".
fn arrows<'text>(rows: impl Iterator<Item = &'text str>) -> Arrows {
    let row = |row: &str| {
        let cells = cells(row);
        let [name, uses] = &cells[..] else { panic!("two cells: {row}") };
        let uses = uses.split(", ").filter(|used| *used != NONE);
        (unquoted(name), uses.map(unquoted).collect())
    };
    rows.map(row).collect()
}

/// What the table of folders has in its first column, one folder each.
fn folders_of_page() -> BTreeSet<PathBuf> {
    let page = page();
    let table = page.split_once("| folder |").expect("the page has a table of folders").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let folders = rows.flat_map(|row| {
        let cells = cells(row);
        let folders = cells[0].split(", ");
        folders
            .map(|folder| PathBuf::from(unquoted(folder).trim_end_matches('/')))
            .collect::<Vec<_>>()
    });
    folders.collect()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(str::trim).collect()
}

fn unquoted(cell: &str) -> String {
    let name = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
    name.unwrap_or_else(|| panic!("a name stands in back quotes: {cell}")).to_owned()
}

fn arrows_of_cargo() -> Arrows {
    let packages = packages();
    let names: BTreeSet<String> = packages.iter().map(name).collect();
    let uses = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("cargo lists them");
        // A dependency of tests has the kind "dev"; a normal one has none.
        let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        normal.map(name).filter(|name| names.contains(name)).collect()
    };
    packages.iter().map(|package| (name(package), uses(package))).collect()
}

fn folders_of_cargo() -> BTreeMap<String, PathBuf> {
    let packages = packages();
    let folder = |package: &Value| {
        let manifest = package["manifest_path"].as_str().expect("cargo says where it is");
        let folder = Path::new(manifest).parent().expect("a manifest lies in a folder");
        folder.strip_prefix(root()).expect("it is in the workspace").to_owned()
    };
    packages.iter().map(|package| (name(package), folder(package))).collect()
}

fn name(value: &Value) -> String {
    value["name"].as_str().expect("everything has a name").to_owned()
}

fn page() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page is there")
}
