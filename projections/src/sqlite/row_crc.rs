/// The checksum of one row, so that a flipped bit is an error and never
/// another number: SQLite itself checks the shape of its pages, not what is in
/// them.
///
/// CRC-32 over the columns in their order; numbers as 8 bytes, texts with
/// their length before them, absent values as the length 2^64 - 1.
#[derive(Debug, Default)]
pub(crate) struct RowCrc {
    bytes: Vec<u8>,
}

impl RowCrc {
    /// Begins a row; the room of the row before is used again.
    pub(crate) fn begin(&mut self) -> &mut Self {
        self.bytes.clear();
        self
    }

    pub(crate) fn number(&mut self, number: i64) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn numbers(&mut self, numbers: &[i64]) -> &mut Self {
        for number in numbers {
            self.number(*number);
        }
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as i64);
        self.bytes.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn optional_number(&mut self, number: Option<i64>) -> &mut Self {
        match number {
            Some(number) => self.number(8).number(number),
            None => self.number(-1),
        }
    }

    pub(crate) fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.number(-1),
        }
    }

    /// The checksum of what was added since [`RowCrc::begin`].
    pub(crate) fn sum(&self) -> i64 {
        i64::from(crc32fast::hash(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_character_to_the_next_column_is_noticed() {
        let mut crc = RowCrc::default();
        let one = crc.begin().text("ab").text("c").sum();
        let other = crc.begin().text("a").text("bc").sum();
        assert_ne!(one, other);
    }

    #[test]
    fn absent_is_not_empty() {
        let mut crc = RowCrc::default();
        let absent = crc.begin().optional_text(None).sum();
        let empty = crc.begin().optional_text(Some("")).sum();
        assert_ne!(absent, empty);
    }
}
