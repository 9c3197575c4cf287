//! Which program a process runs.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A process id, and where the answer goes.
type Question = (u32, Sender<Option<PathBuf>>);

static ASKED: OnceLock<Sender<Question>> = OnceLock::new();

/// Has a thread of its own look from now on: call it before the others are
/// kept from looking at other processes, as Landlock does. That thread only
/// reads links.
///
/// # Errors
/// When there can be no thread.
pub fn look_from_own_thread() -> std::io::Result<()> {
    let (ask, questions) = channel();
    std::thread::Builder::new().name("programs".into()).spawn(move || answer(&questions))?;
    // A second one has nobody who asks, and ends.
    let _ = ASKED.set(ask);
    Ok(())
}

fn answer(questions: &Receiver<Question>) {
    for (pid, answer) in questions {
        let _ = answer.send(look(pid));
    }
}

/// The path of the program that a process runs, if we may know it.
pub(crate) fn of(pid: u32) -> Option<PathBuf> {
    let Some(asked) = ASKED.get() else { return look(pid) };
    let (answer, answered) = channel();
    asked.send((pid, answer)).ok()?;
    answered.recv().ok()?
}

fn look(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}
