//! What the tests share.

pub mod books;
pub mod client;
pub mod clock;
pub mod leaks;
pub mod memory;
pub mod picture;
pub mod process;
pub mod projection;
pub mod proxy;
pub mod random;
pub mod raw;
pub mod redis;
pub mod requests;
pub mod secret_store;
pub mod server;
pub mod suite;
pub mod vault;
pub mod wait;
