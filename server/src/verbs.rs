//! One file per verb: what it checks, what it does, what it answers.

mod get_stats;
mod health;
mod release_key;
mod reload_keys;
mod select_keys;
mod track_usage;
mod wire;
