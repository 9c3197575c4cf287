//! Signed notes of how far the ledger was, to be kept elsewhere too: whoever
//! cuts its end or computes its hashes anew cannot make them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::clock::wall_ms;
use crate::line::write_text;
use crate::record::Position;

/// The file with the secret key, in the state directory.
pub const KEY_FILE_NAME: &str = "checkpoint.key";
/// The file with the public key, beside it.
pub const PUBLIC_KEY_FILE_NAME: &str = "checkpoint.pub";
/// The file with the checkpoints, beside it.
pub const CHECKPOINTS_FILE_NAME: &str = "checkpoints.jsonl";

/// Stands before what is signed, so that no signature means two things.
const CONTEXT: &[u8] = b"key-server checkpoint 1\n";
const SIGNATURE_FIELD: &str = ",\"signature\":\"";
const PRIVATE_MODE: u32 = 0o600;

/// A note that a line was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The line's sequence number.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// The wall clock when the note was made, as it is written.
    pub time: String,
    /// The node whose ledger it is.
    pub node: String,
}

/// Why checkpoints cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key's file is not one.
    #[error("{} does not hold a key (64 hexadecimal digits): restore it from a backup, or move it away for a new one", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The secret key is not secret.
    #[error("{} can be read by other users (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is no checkpoint.
    #[error("line {line} of {} is not a checkpoint: it was changed or damaged", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
    },
    /// A line was not signed with the key.
    #[error("line {line} of {} was not signed with this key: it was changed, or the key is another node's", path.display())]
    NotSigned {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
    },
    /// A line stands for less than the one above.
    #[error("line {line} of {} is of an older line than the one above: lines were moved", path.display())]
    OutOfOrder {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
    },
}

impl CheckpointError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What a checkpoint is checked with.
#[derive(Clone, Debug)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads 64 hexadecimal digits; none when they are no key.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = digits(text.trim().as_bytes())?;
        VerifyingKey::from_bytes(&bytes).ok().map(Self)
    }

    /// Reads the file of a public key.
    ///
    /// # Errors
    /// `Io`; `NotAKey`.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let text = std::fs::read_to_string(path).map_err(CheckpointError::io("read", path))?;
        Self::read(&text).ok_or_else(|| CheckpointError::NotAKey { path: path.to_owned() })
    }

    /// 64 hexadecimal digits.
    pub fn show(&self) -> String {
        HEXLOWER.encode(self.0.as_bytes())
    }
}

fn digits(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let fits = text.len() == 64;
    fits.then(|| HEXLOWER.decode_mut(text, &mut bytes).ok()).flatten()?;
    Some(bytes)
}

/// Makes checkpoints of one node's ledger. Its secret key is wiped from memory
/// when this is dropped.
pub struct Signer {
    key: SigningKey,
    node: String,
    path: PathBuf,
}

impl Signer {
    /// The signer of the node whose files are in `dir`; its key is made when it
    /// is not there.
    ///
    /// # Errors
    /// `Io`; `NotAKey`; `NotPrivate`.
    pub fn open(dir: &Path, node: &str) -> Result<Self, CheckpointError> {
        let key = secret_key(&dir.join(KEY_FILE_NAME))?;
        let (path, node) = (dir.join(CHECKPOINTS_FILE_NAME), node.to_owned());
        let signer = Self { key, node, path };
        signer.publish(&dir.join(PUBLIC_KEY_FILE_NAME))?;
        Ok(signer)
    }

    /// What its checkpoints are checked with.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The public key's file is only a copy: it is made anew when it is missing
    /// or another one.
    fn publish(&self, path: &Path) -> Result<(), CheckpointError> {
        let text = format!("{}\n", self.public_key().show());
        if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        write_whole(path, text.as_bytes()).map_err(CheckpointError::io("write", path))
    }

    /// Notes that the ledger reaches to `position`, on the disk; answers the
    /// line, to be kept elsewhere too.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, position: &Position) -> Result<String, CheckpointError> {
        let line = self.line(position);
        let io_error = CheckpointError::io("write", &self.path);
        append(&self.path, &line).map_err(io_error)?;
        Ok(line)
    }

    fn line(&self, position: &Position) -> String {
        let time =
            i64::try_from(wall_ms()).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let mut node = Vec::new();
        write_text(&self.node, &mut node);
        let body = format!(
            "{{\"v\":1,\"node\":{},\"seq\":{},\"hash\":\"{}\",\"time\":\"{:.3}\"",
            String::from_utf8_lossy(&node),
            position.seq,
            HEXLOWER.encode(&position.hash),
            time.unwrap_or_default(),
        );
        let signature = self.key.sign(&message(body.as_bytes())).to_bytes();
        format!("{body}{SIGNATURE_FIELD}{}\"}}", HEXLOWER.encode(&signature))
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    [CONTEXT, body].concat()
}

/// Reads the key's file, or makes it.
fn secret_key(path: &Path) -> Result<SigningKey, CheckpointError> {
    match File::open(path) {
        Ok(file) => read_key(file, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = Zeroizing::new([0; 32]);
            let filled =
                getrandom::fill(&mut *seed).map_err(|error| io::Error::other(error.to_string()));
            filled.map_err(CheckpointError::io("make a key for", path))?;
            let mut text = Zeroizing::new(vec![0; 65]);
            HEXLOWER.encode_mut(&*seed, &mut text[..64]);
            text[64] = b'\n';
            write_whole(path, &text).map_err(CheckpointError::io("write", path))?;
            Ok(SigningKey::from_bytes(&seed))
        }
        Err(error) => Err(CheckpointError::io("open", path)(error)),
    }
}

fn read_key(mut file: File, path: &Path) -> Result<SigningKey, CheckpointError> {
    let io_error = || CheckpointError::io("read", path);
    let mode = file.metadata().map_err(io_error())?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CheckpointError::NotPrivate { path: path.to_owned(), mode });
    }
    // As long as a key's file may be, so that it never moves and leaves copies.
    let mut text = Zeroizing::new(Vec::with_capacity(128));
    (&mut file).take(100).read_to_end(&mut text).map_err(io_error())?;
    let seed = digits(text.trim_ascii()).map(Zeroizing::new);
    let seed = seed.ok_or_else(|| CheckpointError::NotAKey { path: path.to_owned() })?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Puts a private file there as a whole, durably.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(PRIVATE_MODE);
    let mut file = options.open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    crate::segment::sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Adds a line, after cutting one that a crash left without its end.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_MODE);
    let mut file = options.open(path)?;
    let end = whole_lines(&mut file)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}

/// Where the last whole line ends; a line is far shorter than what is read.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LINE_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let newline = tail.iter().rposition(|byte| *byte == b'\n');
    Ok(newline.map_or(start, |place| start + place as u64 + 1))
}

const LINE_BYTES_MAX: usize = 4_096;

/// Checkpoints of a file, from the oldest on, each checked.
pub struct Checkpoints {
    path: PathBuf,
    /// Up to where the file went when reading began: a checkpoint that comes
    /// later may stand for a line that comes later.
    lines: BufReader<io::Take<File>>,
    key: PublicKey,
    line: u64,
    last_seq: u64,
}

impl Checkpoints {
    /// Those of the file at `path`, signed with `key`.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(path: &Path, key: PublicKey) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let length = file.metadata().map_err(CheckpointError::io("look at", path))?.len();
        let lines = BufReader::new(file.take(length));
        Ok(Self { path: path.to_owned(), lines, key, line: 0, last_seq: 0 })
    }

    /// The next one; none at the end. A last line without its end does not
    /// count.
    ///
    /// # Errors
    /// Any [`CheckpointError`] that names a line.
    pub fn advance(&mut self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.lines).take(LINE_BYTES_MAX as u64);
        let read = limited.read_until(b'\n', &mut line);
        read.map_err(CheckpointError::io("read", &self.path))?;
        let (path, number) = (self.path.clone(), self.line + 1);
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            let is_too_long = line.len() == LINE_BYTES_MAX;
            let malformed = CheckpointError::Malformed { path, line: number };
            return if is_too_long { Err(malformed) } else { Ok(None) };
        }
        self.line = number;
        let Some((checkpoint, is_signed)) = self.read(&line) else {
            return Err(CheckpointError::Malformed { path, line: number });
        };
        if !is_signed {
            return Err(CheckpointError::NotSigned { path, line: number });
        }
        if checkpoint.seq < self.last_seq {
            return Err(CheckpointError::OutOfOrder { path, line: number });
        }
        self.last_seq = checkpoint.seq;
        Ok(Some(checkpoint))
    }

    fn read(&self, line: &[u8]) -> Option<(Checkpoint, bool)> {
        let text = str::from_utf8(line).ok()?;
        let (body, signature) = text.strip_suffix("\"}")?.rsplit_once(SIGNATURE_FIELD)?;
        let mut bytes = [0; 64];
        let fits = signature.len() == 128;
        fits.then(|| HEXLOWER.decode_mut(signature.as_bytes(), &mut bytes).ok()).flatten()?;
        let signature = Signature::from_bytes(&bytes);
        let is_signed = self.key.0.verify_strict(&message(body.as_bytes()), &signature).is_ok();
        let value: Value = serde_json::from_str(text).ok()?;
        let checkpoint = Checkpoint {
            seq: value["seq"].as_u64()?,
            hash: digits(value["hash"].as_str()?.as_bytes())?,
            time: value["time"].as_str()?.to_owned(),
            node: value["node"].as_str()?.to_owned(),
        };
        Some((checkpoint, is_signed))
    }
}
