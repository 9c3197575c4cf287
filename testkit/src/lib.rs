//! What the tests share.

pub mod client;
pub mod clock;
pub mod process;
pub mod projection;
pub mod proxy;
pub mod redis;
pub mod secret_store;
pub mod server;
pub mod suite;
pub mod vault;
