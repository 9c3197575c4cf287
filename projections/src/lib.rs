//! What the ledger adds up to, kept where it is found fast.
//!
//! A [`Projection`] takes batches of [`key_server_core::Changes`], each exactly
//! once, and can be thrown away and filled again from the ledger: losing one
//! costs time, nothing else. [`sqlite::SqliteProjection`] is the local one: a
//! node that starts loads its state from it and replays only the ledger's
//! tail. [`reports`] answers people's questions from the same file, whether
//! the server runs or not. `docs/sqlite.md` describes the file.
//! [`redis::RedisProjection`] is the shared one: through it and its [`Fleet`]
//! the nodes learn of each other. `docs/redis.md` describes what stands there.
//!
//! This crate knows the rows that the core gives and takes. It does not know
//! the ledger ([`Mark::resume`] is opaque to it), and it never sees a secret.

mod error;
mod fleet;
mod local;
mod projection;
pub mod redis;
pub mod reports;
pub mod sqlite;

/// For those who implement [`Fleet`].
pub use async_trait::async_trait;
pub use error::ProjectionError;
pub use fleet::{
    Announced, Fleet, Hold, Listen, News, NodeStatus, OtherNode, Reservation, ReservationForModel,
};
pub use local::LocalProjection;
pub use projection::{Mark, Projection};
pub use redis::{RedisFleet, RedisProjection};
pub use sqlite::SqliteProjection;
