//! Cells of a CSV, with the lines they are on.
//!
//! Not the `csv` crate: its positions are wrong after a comment line, it takes
//! a quote after a blank for part of the value, and it keeps cells in buffers
//! that are not wiped. Here cells are borrowed; for plain RFC 4180 files the
//! result is the same (a test compares them).

use zeroize::Zeroizing;

/// The rows of a text, one after the other; blank and comment lines are left
/// out.
pub(super) struct Rows<'a> {
    rest: &'a str,
    line: u32,
    separator: char,
}

/// One row: at least one cell.
pub(super) struct Row<'a> {
    /// The line it begins on, from 1.
    pub(super) line: u32,
    pub(super) cells: Vec<Cell<'a>>,
}

/// One cell.
pub(super) struct Cell<'a> {
    /// The line it begins on.
    pub(super) line: u32,
    pub(super) content: Content<'a>,
}

/// What is in a cell.
pub(super) enum Content<'a> {
    /// As it stands in the text, without blanks around it.
    Plain(&'a str),
    /// It had doubled quotes; wiped on drop.
    Unescaped(Zeroizing<String>),
    /// Quotes that do not fit together.
    Broken(QuoteFault),
}

/// How quotes do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuoteFault {
    /// No closing quote up to the end of the file.
    NeverClosed,
    /// Something other than a separator after the closing quote.
    TextAfterClosing,
}

impl Cell<'_> {
    /// The text; empty when the quotes are broken.
    pub(super) fn text(&self) -> &str {
        match &self.content {
            Content::Plain(text) => text,
            Content::Unescaped(text) => text.trim(),
            Content::Broken(_) => "",
        }
    }
}

impl<'a> Rows<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { rest: text, line: 1, separator: ',' }
    }

    /// The same text from its beginning, cut at another separator.
    pub(super) fn separated_by(self, separator: char) -> Self {
        Self { separator, ..self }
    }

    /// A second reader at the same place.
    pub(super) fn copy(&self) -> Self {
        Self { ..*self }
    }

    pub(super) fn next_row(&mut self) -> Option<Row<'a>> {
        self.skip_lines_without_cells();
        if self.rest.is_empty() {
            return None;
        }
        let mut row = Row { line: self.line, cells: Vec::with_capacity(8) };
        loop {
            row.cells.push(self.next_cell());
            if !self.skip_separator() {
                self.skip_line_end();
                return Some(row);
            }
        }
    }

    fn skip_lines_without_cells(&mut self) {
        loop {
            let line = self.rest.trim_start_matches(is_blank);
            if line.starts_with('#') {
                self.rest = line.trim_start_matches(|c| !is_line_end(c));
            } else if line.starts_with(is_line_end) {
                self.rest = line;
            } else if line.is_empty() {
                self.rest = line;
                return;
            } else {
                return;
            }
            self.skip_line_end();
        }
    }

    fn next_cell(&mut self) -> Cell<'a> {
        let line = self.line;
        let separator = self.separator;
        let trimmed = self.rest.trim_start_matches(|c| is_blank(c) && c != separator);
        let content = match trimmed.strip_prefix('"') {
            Some(quoted) => {
                self.rest = quoted;
                self.quoted()
            }
            None => {
                self.rest = trimmed;
                Content::Plain(self.take_plain().trim_end())
            }
        };
        Cell { line, content }
    }

    fn take_plain(&mut self) -> &'a str {
        let separator = self.separator;
        let end = self.rest.find(|c| c == separator || is_line_end(c));
        self.take(end.unwrap_or(self.rest.len()))
    }

    /// A quoted cell, behind its opening quote.
    fn quoted(&mut self) -> Content<'a> {
        let Some((end, doubled)) = closing_quote(self.rest) else {
            self.take(self.rest.len());
            return Content::Broken(QuoteFault::NeverClosed);
        };
        let inner = self.take(end);
        self.take(1);
        self.count_line_ends(inner);
        match self.take_plain().trim().is_empty() {
            false => Content::Broken(QuoteFault::TextAfterClosing),
            true if doubled => Content::Unescaped(unescaped(inner)),
            true => Content::Plain(inner.trim()),
        }
    }

    fn skip_separator(&mut self) -> bool {
        let behind = self.rest.strip_prefix(self.separator);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    fn skip_line_end(&mut self) {
        let behind = self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix(is_line_end));
        if let Some(behind) = behind {
            self.rest = behind;
            self.line = self.line.saturating_add(1);
        }
    }

    fn count_line_ends(&mut self, text: &str) {
        let carriage_returns = text.matches('\r').count();
        let others = text.matches('\n').count() - text.matches("\r\n").count();
        let count = u32::try_from(carriage_returns + others).unwrap_or(u32::MAX);
        self.line = self.line.saturating_add(count);
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }
}

/// Where the closing quote is, and whether doubled ones come before it.
fn closing_quote(text: &str) -> Option<(usize, bool)> {
    let bytes = text.as_bytes();
    let mut place = 0;
    let mut doubled = false;
    loop {
        place += text[place..].find('"')?;
        if bytes.get(place + 1) != Some(&b'"') {
            return Some((place, doubled));
        }
        doubled = true;
        place += 2;
    }
}

/// `text` with one quote for two, built without a copy left behind.
fn unescaped(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    for (index, part) in text.split("\"\"").enumerate() {
        if index > 0 {
            plain.push('"');
        }
        plain.push_str(part);
    }
    plain
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// White space that does not end a line, non-breaking blanks included.
fn is_blank(c: char) -> bool {
    c.is_whitespace() && !is_line_end(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cells(text: &str) -> Vec<(u32, Vec<String>)> {
        let mut rows = Rows::of(text);
        let mut all = Vec::new();
        while let Some(row) = rows.next_row() {
            let texts = row.cells.iter().map(|cell| match &cell.content {
                Content::Broken(fault) => format!("{fault:?}"),
                _ => String::from(cell.text()),
            });
            all.push((row.line, texts.collect()));
        }
        all
    }

    #[test]
    fn rows_have_the_lines_an_editor_shows() {
        let text = "# comment\na,b\n\n  # another \"\n\"x\ny\",\"\r\n\"\r\nc\rd\n \t \ne";
        let found = cells(text);
        let lines: Vec<u32> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 5, 8, 9, 11]);
        assert_eq!(found[1].1, ["x\ny", ""]);
        assert_eq!(found[4].1, ["e"]);
    }

    #[test]
    fn blanks_and_quotes_around_a_cell_are_not_part_of_it() {
        for (text, expected) in [
            (" a ,\tb\u{a0}", ["a", "b"]),
            ("\"a\" , \"b\"", ["a", "b"]),
            ("\" a \",\"b,c\"", ["a", "b,c"]),
            ("\"say \"\"a\"\"\",b\"c", ["say \"a\"", "b\"c"]),
            ("\"a\"x,b", ["TextAfterClosing", "b"]),
            ("a,\"b\nc", ["a", "NeverClosed"]),
            ("\"\",", ["", ""]),
        ] {
            assert_eq!(cells(text)[0].1, expected, "{text:?}");
        }
    }

    fn csv_crate_cells(text: &str) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let records = reader.records().map(|record| record.unwrap());
        records.map(|record| record.iter().map(String::from).collect()).collect()
    }

    fn written(rows: &[Vec<String>]) -> String {
        let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        for row in rows {
            writer.write_record(row).unwrap();
        }
        String::from_utf8(writer.into_inner().unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn plain_files_are_cut_as_the_csv_crate_cuts_them(
            rows in prop::collection::vec(
                prop::collection::vec("[a-c \",\n\r'é;]{0,6}", 2..5), 0..6),
        ) {
            let rows: Vec<Vec<String>> = rows
                .into_iter()
                .map(|row| [vec![String::from("x")], row].concat())
                .collect();
            let text = written(&rows);
            let ours: Vec<Vec<String>> = cells(&text).into_iter().map(|(_, row)| row).collect();
            prop_assert_eq!(ours, csv_crate_cells(&text));
        }

        #[test]
        fn any_text_is_cut_without_a_panic_and_lines_only_grow(text in "[a#\",; \t\n\r\u{feff}é]{0,60}") {
            let found = cells(&text);
            prop_assert!(found.is_sorted_by(|one, next| one.0 < next.0));
        }
    }
}
