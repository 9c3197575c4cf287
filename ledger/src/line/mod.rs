//! The text form of a record: one JSON object, its keys in a fixed order.
//!
//! There is exactly one line for a record. Reading is as strict as that: any
//! other spelling of the same JSON is refused, so what verifies is what was
//! written.

mod caches;
mod call;
mod event;
mod key;
mod moved;
mod removed;
mod rules;
mod scanner;
mod session;
mod usage;
mod wall_text;
mod writer;

use std::sync::Arc;

use data_encoding::HEXLOWER;
use key_server_core::Time;

use crate::error::Fault;
use crate::record::{Caller, Entry, Record};
use caches::Caches;
use scanner::{Scanner, field};
use wall_text::WallText;
use writer::LineWriter;
pub(crate) use writer::write_text;

/// The version of the line's form that this program writes, and the only one so
/// far that it reads.
pub const SCHEMA_VERSION: u64 = 1;

/// The longest line that is read, in bytes: 16 MiB.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;
/// The largest estimate that is taken: escapes make it six times as long.
pub(crate) const ENTRY_BYTES_MAX: usize = 2 << 20;

/// `,"crc":"` + 8 digits + `"}`.
const CRC_TAIL_BYTES: usize = 18;
const CRC_FIELD: &str = field!("crc");

/// What a line says beside its entry.
pub(crate) struct Frame {
    pub(crate) seq: u64,
    pub(crate) at: Time,
    pub(crate) wall_ms: u64,
    pub(crate) more: u64,
    pub(crate) prev: [u8; 32],
}

/// Writes lines; keeps what is the same from line to line.
pub(crate) struct Encoder {
    node: Arc<str>,
    wall: WallText,
}

impl Encoder {
    pub(crate) fn new(node: Arc<str>) -> Self {
        Self { node, wall: WallText::default() }
    }

    /// Appends the line and its newline to `bytes`.
    pub(crate) fn encode(&mut self, frame: &Frame, entry: &Entry, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let mut line = LineWriter::new(bytes);
        self.head(frame, &mut line);
        line.raw(field!("event"));
        line.text(event::name(&entry.fact));
        if let Some(caller) = &entry.caller {
            write_caller(caller, &mut line);
        }
        event::encode(&entry.fact, &mut line);
        if frame.more > 0 {
            line.raw(field!("more"));
            line.number(frame.more);
        }
        line.raw(field!("prev"));
        line.hex(&frame.prev);
        seal(bytes, start);
    }

    fn head(&mut self, frame: &Frame, line: &mut LineWriter<'_>) {
        line.raw("{\"v\":");
        line.number(SCHEMA_VERSION);
        line.raw(field!("seq"));
        line.number(frame.seq);
        line.raw(field!("time"));
        line.text(self.wall.text(frame.wall_ms));
        line.raw(field!("at"));
        line.number(frame.at.as_ms());
        line.raw(field!("node"));
        line.text(&self.node);
    }
}

fn write_caller(caller: &Caller, line: &mut LineWriter<'_>) {
    line.raw(",\"caller\":{\"uid\":");
    line.number(caller.uid.into());
    line.raw(field!("gid"));
    line.number(caller.gid.into());
    line.raw(field!("pid"));
    line.number(caller.pid.into());
    if let Some(started_ms) = caller.started_ms {
        line.raw(field!("started"));
        line.number(started_ms);
    }
    if let Some(exe) = &caller.exe {
        line.raw(field!("exe"));
        line.text(exe);
    }
    line.raw("}");
}

/// Adds the checksum of the line so far, and ends it.
fn seal(bytes: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(&bytes[start..]);
    let mut line = LineWriter::new(bytes);
    line.raw(CRC_FIELD);
    line.hex(&crc.to_be_bytes());
    line.raw("}\n");
}

/// A line taken apart: the record, and the hash of the line before it.
pub(crate) struct Decoded {
    pub(crate) record: Record,
    pub(crate) prev: [u8; 32],
}

/// Reads lines; shares texts that are the same from line to line.
#[derive(Default)]
pub(crate) struct Decoder {
    caches: Caches,
    wall: WallText,
}

impl Decoder {
    /// Takes a line (without its newline) apart.
    ///
    /// # Errors
    /// [`Fault::Checksum`], [`Fault::Version`] or [`Fault::Malformed`].
    pub(crate) fn decode(&mut self, line: &[u8]) -> Result<Decoded, Fault> {
        let body = checked_body(line)?;
        let mut scanner = Scanner::new(body)?;
        read_version(&mut scanner)?;
        let seq = scanner.field_number(field!("seq"))?;
        let wall_ms = self.read_wall(&mut scanner)?;
        let at = scanner.field_time(field!("at"))?;
        scanner.literal(field!("node"))?;
        let node = self.caches.node(&scanner.text()?);
        scanner.literal(field!("event"))?;
        let name = scanner.text()?;
        let caller = self.read_caller(&mut scanner)?;
        let fact = event::decode(&name, &mut scanner, &mut self.caches)?;
        let more = read_more(&mut scanner)?;
        scanner.literal(field!("prev"))?;
        let prev = scanner.hash()?;
        scanner.end()?;
        let record = Record { seq, at, wall_ms, node, caller, fact, more };
        Ok(Decoded { record, prev })
    }

    fn read_wall(&mut self, scanner: &mut Scanner<'_>) -> Result<u64, Fault> {
        scanner.literal(field!("time"))?;
        let text = scanner.text()?;
        let wall_ms = self.wall.parse(&text);
        wall_ms.ok_or_else(|| scanner.expected("a time such as 2025-01-31T23:59:59.999Z"))
    }

    fn read_caller(&mut self, scanner: &mut Scanner<'_>) -> Result<Option<Arc<Caller>>, Fault> {
        if !scanner.take_if(",\"caller\":{\"uid\":") {
            return Ok(None);
        }
        let uid = scanner.number_u32()?;
        let gid = scanner.field_u32(field!("gid"))?;
        let pid = scanner.field_u32(field!("pid"))?;
        let started_ms = match scanner.take_if(field!("started")) {
            true => Some(scanner.number()?),
            false => None,
        };
        let exe = match scanner.take_if(field!("exe")) {
            true => Some(scanner.text()?),
            false => None,
        };
        scanner.literal("}")?;
        Ok(Some(self.caches.caller((uid, gid, pid), started_ms, exe.as_deref())))
    }
}

fn read_version(scanner: &mut Scanner<'_>) -> Result<(), Fault> {
    scanner.literal("{\"v\":")?;
    match scanner.number()? {
        SCHEMA_VERSION => Ok(()),
        found => Err(Fault::Version { found }),
    }
}

fn read_more(scanner: &mut Scanner<'_>) -> Result<u64, Fault> {
    if !scanner.take_if(field!("more")) {
        return Ok(0);
    }
    match scanner.number()? {
        0 => Err(scanner.expected("a number above 0")),
        more => Ok(more),
    }
}

/// The line before its checksum, if that matches.
pub(crate) fn checked_body(line: &[u8]) -> Result<&[u8], Fault> {
    let split = line.len().checked_sub(CRC_TAIL_BYTES).ok_or(Fault::Checksum)?;
    let (body, tail) = line.split_at(split);
    let digits = tail.strip_prefix(CRC_FIELD.as_bytes());
    let digits = digits.and_then(|tail| tail.strip_prefix(b"\"")?.strip_suffix(b"\"}"));
    let mut crc = [0; 8];
    HEXLOWER.encode_mut(&crc32fast::hash(body).to_be_bytes(), &mut crc);
    if digits == Some(&crc[..]) { Ok(body) } else { Err(Fault::Checksum) }
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod strategies;
#[cfg(test)]
mod tests;
