//! The file as a whole: readable, of sane size, private, and text.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::problem::Problems;

const BYTE_ORDER_MARK: &str = "\u{feff}";
const HEADER_HINT: &str = "the first line must be provider,model,api_key";

/// The content of the CSV; nothing when it cannot be used, and then why is in
/// `problems`.
pub(super) fn read(
    path: &Path,
    bytes_max: u64,
    problems: &mut Problems,
) -> Option<Zeroizing<Vec<u8>>> {
    match open(path).and_then(|file| content(file, bytes_max, problems)) {
        Ok(content) => content,
        Err(error) => {
            problems.error(None, None, io_message(&error));
            None
        }
    }
}

/// The content as text, without a byte order mark.
pub(super) fn text<'a>(bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
    if bytes.is_empty() {
        problems.error(None, None, format!("is empty; {HEADER_HINT}"));
        return None;
    }
    if is_utf16(bytes) {
        problems.error(None, None, "is UTF-16 text; save it as CSV UTF-8");
        return None;
    }
    if bytes.starts_with(b"PK\x03\x04") {
        problems.error(None, None, "is a spreadsheet or archive, not a CSV; save it as CSV UTF-8");
        return None;
    }
    if let Some(place) = bytes.iter().position(|byte| *byte == 0) {
        let line = Some(line_of(&bytes[..place]));
        problems.error(line, None, "holds a zero byte, so it is not text; save it as CSV UTF-8");
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)),
        Err(error) => {
            let line = Some(line_of(&bytes[..error.valid_up_to()]));
            problems.error(line, None, "is not UTF-8 text from this line on; save it as CSV UTF-8");
            None
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe must not make the server wait: it is opened and then refused.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    File::options().read(true).custom_flags(flags).open(path)
}

fn content(
    file: File,
    bytes_max: u64,
    problems: &mut Problems,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        problems.error(None, None, "is a directory; name the CSV in it");
        return Ok(None);
    }
    if !metadata.is_file() {
        problems.error(None, None, "is not a regular file; copy the CSV into one");
        return Ok(None);
    }
    if metadata.len() <= bytes_max {
        warn_if_open_to_others(&metadata, problems);
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 64));
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 <= bytes_max {
            return Ok(Some(bytes));
        }
    }
    problems.error(
        None,
        None,
        format!("is larger than {bytes_max} bytes; split it or raise the limit"),
    );
    Ok(None)
}

fn warn_if_open_to_others(metadata: &std::fs::Metadata, problems: &mut Problems) {
    let uid = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != uid {
        let owner = metadata.uid();
        problems.warning(None, None, format!("belongs to uid {owner}, who can change the keys; the server runs as uid {uid}: let that uid own it"));
    }
    if mode & 0o077 != 0 {
        problems.warning(
            None,
            None,
            format!("is open to group or others (mode {mode:04o}); run chmod 600 on it"),
        );
    }
}

fn io_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            String::from("does not exist; create it or correct the setting KEY_CONFIG_FILE")
        }
        io::ErrorKind::PermissionDenied => String::from(
            "cannot be read: permission denied; let the server's user own it, with mode 0600",
        ),
        _ => format!("cannot be read: {error}"),
    }
}

/// True for the byte order marks of UTF-16, or text whose every second byte
/// is zero.
fn is_utf16(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(64) & !1];
    let zero_at = |offset: usize| head.iter().skip(offset).step_by(2).all(|byte| *byte == 0);
    bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || (head.len() >= 4 && (zero_at(0) != zero_at(1)))
}

/// The line that comes after `before`: line ends are `\n`, `\r\n` and `\r`.
fn line_of(before: &[u8]) -> u32 {
    let ends = before
        .iter()
        .enumerate()
        .filter(|(place, byte)| match byte {
            b'\n' => true,
            b'\r' => before.get(place + 1) != Some(&b'\n'),
            _ => false,
        })
        .count();
    u32::try_from(ends).unwrap_or(u32::MAX).saturating_add(1)
}
