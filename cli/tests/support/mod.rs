//! What the case files run against.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod sample;
pub mod scripted;

use std::path::Path;

/// Ids as the server makes them.
pub const KEYS: [&str; 5] = [
    "k_2yf5mhnaxg3vkzqbwc4sdtj7",
    "k_7qpznk4vd2hxa5rwgy3jmcte",
    "k_bx6ow3uthzl2c5ygqkvra7sn",
    "k_h4jm2sdkzvwq7ytbx3gpno5c",
    "k_zr5ta3ync7vmhq2lxwbd6kge",
];

/// Case files in `dir`, each in an empty environment but for what it names.
pub fn cases(dir: &str, empty_home: &Path) -> trycmd::TestCases {
    let cases = trycmd::TestCases::new();
    cases.default_bin_path(option_env!("CARGO_BIN_EXE_key-server").unwrap());
    cases.env("HOME", empty_home.to_str().unwrap());
    cases.insert_var("[HOME]", empty_home.to_str().unwrap().to_owned()).unwrap();
    cases.case(format!("tests/cmd/{dir}/*.toml"));
    cases
}
