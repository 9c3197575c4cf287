use std::io::Write;

use data_encoding::HEXLOWER;

/// Puts JSON together at the end of a buffer.
pub(super) struct LineWriter<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> LineWriter<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes }
    }

    /// `json` as it is.
    pub(super) fn raw(&mut self, json: &str) {
        self.bytes.extend_from_slice(json.as_bytes());
    }

    pub(super) fn number(&mut self, number: u64) {
        serde_json::to_writer(&mut *self.bytes, &number)
            .expect("writing a number to memory does not fail");
    }

    pub(super) fn signed(&mut self, number: i32) {
        serde_json::to_writer(&mut *self.bytes, &number)
            .expect("writing a number to memory does not fail");
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.raw(if flag { "true" } else { "false" });
    }

    /// `text` in quotes, escaped.
    pub(super) fn text(&mut self, text: &str) {
        write_text(text, self.bytes);
    }

    /// `shown` in quotes; it must need no escapes.
    pub(super) fn plain(&mut self, shown: impl std::fmt::Display) {
        write!(self.bytes, "\"{shown}\"").expect("writing text to memory does not fail");
    }

    /// `bytes` in quotes, two lower-case digits each.
    pub(super) fn hex(&mut self, bytes: &[u8]) {
        self.raw("\"");
        let start = self.bytes.len();
        self.bytes.resize(start + bytes.len() * 2, 0);
        HEXLOWER.encode_mut(bytes, &mut self.bytes[start..]);
        self.raw("\"");
    }

    /// The items in brackets, with commas between them.
    pub(super) fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(T, &mut Self),
    ) {
        self.raw("[");
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.raw(",");
            }
            each(item, self);
        }
        self.raw("]");
    }
}

/// Appends `text` in quotes with the fewest escapes JSON allows.
pub(crate) fn write_text(text: &str, bytes: &mut Vec<u8>) {
    serde_json::to_writer(bytes, text).expect("writing text to memory does not fail");
}
