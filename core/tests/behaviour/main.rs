//! What the rules promise, seen from outside.

mod bounds;
mod determinism;
mod fixture;
mod fleet;
mod restore;
mod sessions;
mod shares;
#[path = "../fleet/store.rs"]
mod store;
mod time;
