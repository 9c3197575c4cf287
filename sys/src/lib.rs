//! System calls that no safe library has, each behind a safe function.
//!
//! The only crate of the workspace that may hold `unsafe`; every block says
//! why it is sound.

mod environment;
mod inherited;
mod memory;
mod peer;
mod process;
mod sandbox;
mod wiping;

pub use environment::wipe_variable;
pub use inherited::take_inherited;
pub use memory::{can_keep_in_ram, keep_in_ram};
pub use peer::{peer_groups, peer_pidfd};
pub use process::protect;
pub use sandbox::{Network, SandboxError, limit_calls, limit_files};
pub use wiping::Wiping;
