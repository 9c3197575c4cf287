//! System calls that no safe library has, each behind a safe function.
//!
//! The only crate of the workspace that may hold `unsafe`; every block says
//! why it is sound.

mod peer;

pub use peer::peer_groups;
