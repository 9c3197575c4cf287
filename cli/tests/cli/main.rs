//! The contract of the command line, against the program itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

mod answers;
mod case_file;
mod cases;
mod documents;
mod moment;
mod processes;
mod sample;
mod scripted;
mod trail;

/// Ids as the server makes them.
const KEYS: [&str; 5] = [
    "k_2yf5mhnaxg3vkzqbwc4sdtj7",
    "k_7qpznk4vd2hxa5rwgy3jmcte",
    "k_bx6ow3uthzl2c5ygqkvra7sn",
    "k_h4jm2sdkzvwq7ytbx3gpno5c",
    "k_zr5ta3ync7vmhq2lxwbd6kge",
];
