use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use crate::file_calls::FileCalls;

/// A call of the writer to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    Create,
    Write,
    Sync,
    Truncate,
}

/// What the next calls of a kind do: fail, or not.
#[derive(Default)]
struct Script {
    failures: VecDeque<(CallKind, usize)>,
    log: Vec<CallKind>,
    held: bool,
}

/// A system that fails as told, and can be held up.
#[derive(Clone, Default)]
pub(super) struct FaultyCalls {
    script: Arc<(Mutex<Script>, Condvar)>,
}

impl FaultyCalls {
    /// Lets the call of this kind after the next `passed` ones fail.
    pub(super) fn fail(&self, kind: CallKind, passed: usize) {
        self.script.0.lock().unwrap().failures.push_back((kind, passed));
    }

    /// Makes calls wait, or go on.
    pub(super) fn hold(&self, held: bool) {
        self.script.0.lock().unwrap().held = held;
        self.script.1.notify_all();
    }

    pub(super) fn count(&self, kind: CallKind) -> usize {
        self.script.0.lock().unwrap().log.iter().filter(|call| **call == kind).count()
    }

    fn call(&self, kind: CallKind) -> io::Result<()> {
        let script = self.script.0.lock().unwrap();
        let mut script = self.script.1.wait_while(script, |script| script.held).unwrap();
        script.log.push(kind);
        let next = script.failures.iter_mut().find(|(failing, _)| *failing == kind);
        match next {
            Some((_, 0)) => {}
            Some((_, passed)) => {
                *passed -= 1;
                return Ok(());
            }
            None => return Ok(()),
        }
        let place = script.failures.iter().position(|(failing, _)| *failing == kind);
        script.failures.remove(place.unwrap());
        Err(io::Error::other(format!("injected {kind:?} error")))
    }
}

impl FileCalls for FaultyCalls {
    fn create(&mut self, dir: &Path, first_seq: u64) -> io::Result<File> {
        let made = crate::segment::create(dir, first_seq);
        self.call(CallKind::Create)?;
        made
    }

    fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let half = bytes.len() / 2;
        file.write_all_at(&bytes[..half], offset)?;
        self.call(CallKind::Write)?;
        file.write_all_at(&bytes[half..], offset + half as u64)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.call(CallKind::Sync)?;
        file.sync_data()
    }

    fn truncate(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.call(CallKind::Truncate)?;
        file.set_len(bytes)
    }
}
