//! The daemon, without a word about which adapters it runs on.
//!
//! A call comes in by [`socket`], `accept` and `connection`, passes [`gate`] in
//! `services`, is checked by [`guard`], runs its verb, which decides through
//! the [`engine`], and leaves once its record is durable. [`projector`] carries
//! what changed into the local database in the background; [`lifecycle`] starts
//! and ends all of it. `audit` records the calls that change nothing,
//! `checkpoints` signs how far the ledger is.

mod accept;
pub mod access;
mod audit;
pub mod backend;
mod calls;
mod checkpoints;
pub mod clock;
pub mod config;
mod connection;
pub mod engine;
pub mod error;
pub mod fleet;
pub mod gate;
mod grpc;
pub mod guard;
pub mod keys;
pub mod lifecycle;
mod lock_file;
pub mod observer;
pub mod panics;
mod peer;
pub mod policy;
pub mod program;
pub mod projector;
pub mod rate;
mod recovery;
mod resume;
pub mod service;
mod services;
pub mod socket;
pub mod state_dir;
pub mod status;
mod traces;
pub mod users;
mod verbs;
