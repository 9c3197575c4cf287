//! System calls that no safe library has, each behind a safe function.
//!
//! The only crate of the workspace that may hold `unsafe`; every block says
//! why it is sound.

mod environment;
mod memory;
mod process;
mod sandbox;
mod stack;
mod wiping;

pub use environment::wipe_variable;
pub use memory::{can_keep_in_ram, keep_in_ram};
pub use process::protect;
pub use sandbox::{Network, SandboxError, limit_calls, limit_files};
pub use stack::wipe_stack;
pub use wiping::Wiping;
