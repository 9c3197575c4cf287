//! The contract of the command line, against the program itself.

mod cases;
mod documents;
mod processes;
mod sample;
mod scripted;

use std::path::Path;

/// Ids as the server makes them.
pub(crate) const KEYS: [&str; 5] = [
    "k_2yf5mhnaxg3vkzqbwc4sdtj7",
    "k_7qpznk4vd2hxa5rwgy3jmcte",
    "k_bx6ow3uthzl2c5ygqkvra7sn",
    "k_h4jm2sdkzvwq7ytbx3gpno5c",
    "k_zr5ta3ync7vmhq2lxwbd6kge",
];

/// Case files in `dir`, each in an empty environment but for what it names.
pub(crate) fn case_files(dir: &str, empty_home: &Path) -> trycmd::TestCases {
    let cases = trycmd::TestCases::new();
    cases.default_bin_path(env!("CARGO_BIN_EXE_key-server"));
    cases.env("HOME", empty_home.to_str().unwrap());
    cases.insert_var("[HOME]", empty_home.to_str().unwrap().to_owned()).unwrap();
    cases.case(format!("tests/cmd/{dir}/*.toml"));
    cases
}

/// Makes `name` stand for `path` in the case files, and sets the variable.
pub(crate) fn with_path(
    cases: &trycmd::TestCases,
    variable: &str,
    name: &'static str,
    path: &Path,
) {
    let path = path.to_str().unwrap().to_owned();
    cases.env(variable, path.clone());
    cases.insert_var(name, path).unwrap();
}
