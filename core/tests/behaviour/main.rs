//! What the rules promise, seen from outside.

mod bounds;
mod determinism;
mod fixture;
mod restore;
mod sessions;
mod shares;
mod time;
