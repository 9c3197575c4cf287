use std::fs::File;
use std::path::Path;

use key_server_core::Time;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Cut, OpenError};
use crate::read::read_calls;
use crate::record::{Position, Record};
use crate::scan::Scan;
use crate::segment;

/// What an open ledger begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// After the last line.
    pub position: Position,
    /// The tail that was cut off, if there was one.
    pub cut: Option<Cut>,
    /// The time of the last line; zero when there is none.
    pub last_at: Time,
}

/// The last segment, ready to be written.
pub(crate) struct OnDisk {
    pub(crate) file: File,
    /// By its first sequence number.
    pub(crate) segment: u64,
    /// Its length in bytes.
    pub(crate) end: u64,
}

/// A directory that belongs to one ledger as long as this lives.
pub(crate) struct DirLock(File);

impl Drop for DirLock {
    /// Closing the file would do, were there no other thread that just starts a
    /// program: until that runs, it has the file too, and the lock with it.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes the directory for this ledger.
pub(crate) fn lock(dir: &Path) -> Result<DirLock, OpenError> {
    segment::create_dir(dir).map_err(OpenError::io("make", dir))?;
    let lock = File::open(dir).map_err(OpenError::io("open", dir))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirLock(lock)),
        Err(Errno::WOULDBLOCK) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(error) => Err(OpenError::io("lock", dir)(error.into())),
    }
}

/// Reads the ledger, and cuts off its torn tail.
pub(crate) fn open(
    dir: &Path,
    pruned_allowed: bool,
    from: Option<&Position>,
    on_call: impl FnMut(&Position, &[Record]),
) -> Result<(OnDisk, Opened), OpenError> {
    let Some(mut scan) = start(dir, pruned_allowed, from)? else { return create(dir) };
    let (cut, last_at) = read_calls(&mut scan, None, on_call)?;
    let segment = scan.segment();
    let on_disk = make_durable(dir, segment, cut.as_ref())?;
    Ok((on_disk, Opened { position: *scan.call_end(), cut, last_at }))
}

/// A scan from `from`, or from the first line; none when there is no segment.
pub(crate) fn start(
    dir: &Path,
    pruned_allowed: bool,
    from: Option<&Position>,
) -> Result<Option<Scan>, OpenError> {
    if let Some(from) = from.filter(|from| **from != Position::START) {
        return Scan::after(dir, from).map(Some);
    }
    let scan = Scan::from_first(dir)?;
    match scan.as_ref().map(Scan::first_seq) {
        Some(first_seq) if first_seq > 1 && !pruned_allowed => Err(OpenError::Pruned { first_seq }),
        _ => Ok(scan),
    }
}

fn create(dir: &Path) -> Result<(OnDisk, Opened), OpenError> {
    let segment = Position::START.segment;
    let file = segment::create(dir, segment).map_err(OpenError::io("make a segment in", dir))?;
    let opened = Opened { position: Position::START, cut: None, last_at: Time::default() };
    Ok((OnDisk { file, segment, end: 0 }, opened))
}

/// Opens the last segment without its tail. What was read from it may be in the
/// kernel only: nothing may rest on it before it is on the disk.
fn make_durable(dir: &Path, segment: u64, cut: Option<&Cut>) -> Result<OnDisk, OpenError> {
    let path = dir.join(segment::file_name(segment));
    let file = segment::open_to_write(dir, segment)?;
    if let Some(cut) = cut {
        file.set_len(cut.offset).map_err(OpenError::io("cut the torn tail of", &path))?;
    }
    file.sync_all().map_err(OpenError::io("sync", &path))?;
    segment::sync_dir(dir).map_err(OpenError::io("sync", dir))?;
    let end = file.metadata().map_err(OpenError::io("look at", &path))?.len();
    Ok(OnDisk { file, segment, end })
}
