//! `docs/threat-model.md` names tests that exist.

use std::path::Path;

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = root.join("docs/threat-model.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (mut checked, mut missing) = (0, Vec::new());
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let mut file = None;
        // What stands in backticks: a file, and then its tests.
        for code in row.split('`').skip(1).step_by(2) {
            if code.ends_with(".rs") || code.ends_with(".py") {
                file = std::fs::read_to_string(root.join(code)).ok();
                if file.is_none() {
                    missing.push(code.to_owned());
                }
            } else if let Some(text) = &file {
                checked += 1;
                let defines = |keyword: &str| text.contains(&format!("{keyword} {code}("));
                // A test of a suite is a function like any other.
                if !defines("fn") && !defines("def") {
                    missing.push(code.to_owned());
                }
            }
        }
    }
    assert!(checked > 40, "{checked} tests were found on the page");
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}
