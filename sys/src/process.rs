//! What others may see and take of this process.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// Nobody but root may look into this process from now on: no debugger, no
/// `/proc/PID/mem`, no core file. And it gains no rights by running anything.
/// The first thing that a program with secrets does.
///
/// # Errors
/// As the system says.
pub fn protect() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_no_new_privs(true)?;
    Ok(())
}
