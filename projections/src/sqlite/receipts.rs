use std::collections::BTreeMap;

use key_server_core::{Receipt, ReceiptRow};
use rusqlite::{Connection, Row};

use crate::sqlite::fault::Fault;
use crate::sqlite::mark::Counts;
use crate::sqlite::numbers::narrow;

const RECEIPT_BYTES: usize = 16;

/// Receipts of one row at most: 1 MiB.
const PART_RECEIPTS_MAX: usize = 65_536;

/// The receipts of each hour, each hour sorted.
pub(crate) type ReceiptsByHour = BTreeMap<u32, Vec<Receipt>>;

/// Adds receipts: one row for each hour they came in.
pub(crate) fn add(
    connection: &Connection,
    counts: &mut Counts,
    receipts: &[ReceiptRow],
) -> Result<(), Fault> {
    let mut statement = connection
        .prepare_cached("INSERT INTO receipt (hour, receipts, crc) VALUES (?1, ?2, ?3)")?;
    for hour in receipts.chunk_by(|a, b| a.hour == b.hour) {
        for part in hour.chunks(PART_RECEIPTS_MAX) {
            let bytes: Vec<u8> =
                part.iter().flat_map(|row| row.receipt.to_bits().to_be_bytes()).collect();
            let hour = hour[0].hour;
            statement.execute((hour, &bytes, part_crc(hour, &bytes)))?;
            counts.receipts += part.len() as i64;
        }
    }
    Ok(())
}

/// Deletes the receipts of hours before `oldest_hour`.
pub(crate) fn delete_before(
    connection: &Connection,
    counts: &mut Counts,
    oldest_hour: u32,
) -> Result<(), Fault> {
    let mut statement = connection
        .prepare_cached("DELETE FROM receipt WHERE hour < ?1 RETURNING length(receipts)")?;
    let mut rows = statement.query([oldest_hour])?;
    while let Some(row) = rows.next()? {
        counts.receipts -= row.get::<_, i64>(0)? / RECEIPT_BYTES as i64;
    }
    Ok(())
}

/// Reads all receipts.
pub(crate) fn read(connection: &Connection, count: i64) -> Result<ReceiptsByHour, Fault> {
    let mut hours = room(connection, count)?;
    let mut statement =
        connection.prepare("SELECT hour, receipts, crc FROM receipt ORDER BY part")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        read_part(row, &mut hours)?;
    }
    if hours.values().map(Vec::len).sum::<usize>() as i64 != count {
        return Err(Fault::content("receipts are missing"));
    }
    for receipts in hours.values_mut() {
        receipts.sort_unstable();
    }
    Ok(hours)
}

/// A list for each hour, with room for its receipts.
fn room(connection: &Connection, count: i64) -> Result<ReceiptsByHour, Fault> {
    let mut statement =
        connection.prepare("SELECT hour, total(length(receipts)) FROM receipt GROUP BY hour")?;
    let mut rows = statement.query([])?;
    let mut hours = ReceiptsByHour::new();
    while let Some(row) = rows.next()? {
        let receipts = row.get::<_, f64>(1)? / RECEIPT_BYTES as f64;
        if receipts > count as f64 {
            return Err(Fault::content("there are more receipts than were written"));
        }
        hours.insert(narrow(row.get(0)?)?, Vec::with_capacity(receipts as usize));
    }
    Ok(hours)
}

fn read_part(row: &Row<'_>, hours: &mut ReceiptsByHour) -> Result<(), Fault> {
    let hour = narrow(row.get(0)?)?;
    let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
    let (receipts, rest) = bytes.as_chunks::<RECEIPT_BYTES>();
    if row.get::<_, i64>(2)? != part_crc(hour, bytes) || !rest.is_empty() {
        return Err(Fault::content(format!("receipts of hour {hour} do not match their checksum")));
    }
    let receipts = receipts.iter().map(|bytes| Receipt::from_bits(u128::from_be_bytes(*bytes)));
    hours.entry(hour).or_default().extend(receipts);
    Ok(())
}

fn part_crc(hour: u32, bytes: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc32fast::hash(&hour.to_le_bytes()));
    hasher.update(bytes);
    i64::from(hasher.finalize())
}
