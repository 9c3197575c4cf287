//! The daemon, without a word about which adapters it runs on.
//!
//! A call comes in by [`socket`] and [`accept`], is checked by [`guard`], runs
//! its verb, which decides through the [`engine`], and leaves once its record
//! is durable. [`projector`] carries what changed into the local database in
//! the background; [`lifecycle`] starts and ends all of it.

pub mod accept;
pub mod backend;
mod calls;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
pub mod fleet;
mod grpc;
pub mod guard;
pub mod keys;
pub mod lifecycle;
pub mod panics;
pub mod program;
pub mod projector;
mod recovery;
mod resume;
pub mod service;
pub mod socket;
pub mod state_dir;
pub mod status;
mod verbs;
