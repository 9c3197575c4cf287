//! The text by which a projection remembers its place in the ledger.

use data_encoding::HEXLOWER;
use key_server_ledger::Position;
use key_server_projections::Mark;

/// `segment offset hash`; the sequence number is the mark's own.
pub(crate) fn write(position: &Position) -> String {
    format!("{} {} {}", position.segment, position.offset, HEXLOWER.encode(&position.hash))
}

/// The place that a mark stands for; none when it is not ours.
pub(crate) fn read(mark: &Mark) -> Option<Position> {
    let mut parts = mark.resume.split(' ');
    let segment = parts.next()?.parse().ok()?;
    let offset = parts.next()?.parse().ok()?;
    let hash = HEXLOWER.decode(parts.next()?.as_bytes()).ok()?.try_into().ok()?;
    Some(Position { seq: mark.seq, hash, segment, offset })
}

#[cfg(test)]
mod tests {
    use key_server_core::Time;

    use super::*;

    #[test]
    fn a_place_survives_its_text() {
        let position = Position { seq: 7, hash: [9; 32], segment: 3, offset: 41 };
        let mark = Mark { seq: 7, at: Time::default(), resume: write(&position) };
        assert_eq!(read(&mark), Some(position));
        let mark = Mark { resume: "3 x".to_owned(), ..mark };
        assert_eq!(read(&mark), None);
    }
}
