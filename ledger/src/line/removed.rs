use super::scanner::{Scanner, field};
use super::writer::LineWriter;
use crate::error::Fault;
use crate::record::{RemovalReason, SegmentRemoved};

pub(super) fn encode(removed: &SegmentRemoved, line: &mut LineWriter<'_>) {
    line.raw(field!("first_seq"));
    line.number(removed.first_seq);
    line.raw(field!("last_seq"));
    line.number(removed.last_seq);
    line.raw(field!("first_hash"));
    line.hex(&removed.first_hash);
    line.raw(field!("last_hash"));
    line.hex(&removed.last_hash);
    line.raw(field!("bytes"));
    line.number(removed.bytes);
    line.raw(field!("why"));
    line.text(removed.why.as_str());
}

pub(super) fn decode(line: &mut Scanner<'_>) -> Result<SegmentRemoved, Fault> {
    let first_seq = line.field_number(field!("first_seq"))?;
    let last_seq = line.field_number(field!("last_seq"))?;
    line.literal(field!("first_hash"))?;
    let first_hash = line.hash()?;
    line.literal(field!("last_hash"))?;
    let last_hash = line.hash()?;
    let bytes = line.field_number(field!("bytes"))?;
    line.literal(field!("why"))?;
    let fault = line.expected("\"age\" or \"size\"");
    let why = match &*line.text()? {
        "age" => RemovalReason::Age,
        "size" => RemovalReason::Size,
        _ => return Err(fault),
    };
    Ok(SegmentRemoved { first_seq, last_seq, first_hash, last_hash, bytes, why })
}
