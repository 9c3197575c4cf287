use std::borrow::Cow;

use super::paint::{Paint, Tone};
use super::text;

/// Between two columns.
const GAP: usize = 2;
/// Before a remark below a row.
const INDENT: usize = 2;

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    clip: Clip,
    /// Columns with the highest number go first when the terminal is too narrow;
    /// 0 stays.
    rank: u8,
}

/// How a cell gets shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clip {
    Never,
    /// Loses its end; not shorter than this.
    End(usize),
    /// Loses its middle; not shorter than this.
    Middle(usize),
}

impl Column {
    pub(crate) const fn left(title: &'static str) -> Self {
        Self { title, right: false, clip: Clip::Never, rank: 0 }
    }

    /// For numbers.
    pub(crate) const fn right(title: &'static str) -> Self {
        Self { right: true, ..Self::left(title) }
    }

    /// May lose the end of its cells, down to `columns`.
    pub(crate) const fn clip_end(self, columns: usize) -> Self {
        Self { clip: Clip::End(columns), ..self }
    }

    /// May lose the middle of its cells, down to `columns`.
    pub(crate) const fn clip_middle(self, columns: usize) -> Self {
        Self { clip: Clip::Middle(columns), ..self }
    }

    /// May be left out; the highest rank first.
    pub(crate) const fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

/// One cell: safe to print, and what it means.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        Self { text: text::escape(text.as_ref()).into_owned(), tone }
    }

    /// A number; zero is faint.
    pub(crate) fn number(number: impl TryInto<i128>) -> Self {
        Self::count(Tone::Plain, number)
    }

    /// A number that means something unless it is zero.
    pub(crate) fn count(tone: Tone, number: impl TryInto<i128>) -> Self {
        let text = text::thousands(number);
        let tone = if text == "0" { Tone::Faint } else { tone };
        Self { text, tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Rows under titles, as wide as the terminal allows.
///
/// Columns without content are left out. Without a terminal nothing is cut.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    cells: Vec<Cell>,
    remarks: Vec<Cell>,
}

/// A column that is shown: which one, and how wide.
struct Shown {
    index: usize,
    width: usize,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<_> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(Row { cells, remarks: Vec::new() });
    }

    /// Adds lines below the last row.
    pub(crate) fn remark(&mut self, tone: Tone, remark: &str) {
        if let Some(row) = self.rows.last_mut() {
            row.remarks.push(Cell::new(tone, remark));
        }
    }

    /// The lines of the table, at most `width` wide if that can be.
    pub(crate) fn render(&self, paint: Paint, width: Option<usize>) -> Vec<String> {
        let shown = self.fit(width);
        let titles: Vec<_> =
            self.columns.iter().map(|column| Cell::new(Tone::Faint, column.title)).collect();
        let mut lines = vec![self.line(&titles, &shown, paint)];
        for row in &self.rows {
            lines.push(self.line(&row.cells, &shown, paint));
            for remark in &row.remarks {
                lines.extend(remark_lines(remark, paint, width));
            }
        }
        lines
    }

    fn line(&self, cells: &[Cell], shown: &[Shown], paint: Paint) -> String {
        let mut line = String::new();
        for (place, Shown { index, width }) in shown.iter().enumerate() {
            let (column, cell) = (&self.columns[*index], &cells[*index]);
            let text = column.clip(&cell.text, *width);
            let fill = " ".repeat(width.saturating_sub(text::width(&text)));
            let painted = paint.text(cell.tone, &text);
            let gap = if place == 0 { "" } else { &"  "[..GAP] };
            let (before, after) = if column.right { (&*fill, "") } else { ("", &*fill) };
            line.extend([gap, before, &painted, after]);
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// Which columns are shown, and how wide: leaves columns out only when
    /// clipping alone is not enough.
    fn fit(&self, width: Option<usize>) -> Vec<Shown> {
        let mut shown = self.natural();
        let Some(width) = width else { return shown };
        while self.narrowest(&shown) > width {
            let ranked = shown.iter().enumerate().map(|(place, one)| (self.rank(one), place));
            match ranked.filter(|(rank, _)| *rank > 0).max() {
                Some((_, place)) => shown.remove(place),
                None => break,
            };
        }
        self.shrink(&mut shown, width);
        shown
    }

    /// Every column with content, as wide as its widest cell.
    fn natural(&self) -> Vec<Shown> {
        let columns = self.columns.iter().enumerate();
        let shown = columns.filter_map(|(index, column)| {
            let cells = self.rows.iter().map(|row| text::width(&row.cells[index].text));
            let widest = cells.max().unwrap_or(0);
            let is_shown = widest > 0 || self.rows.is_empty();
            is_shown.then(|| Shown { index, width: widest.max(text::width(column.title)) })
        });
        shown.collect()
    }

    fn rank(&self, shown: &Shown) -> u8 {
        self.columns[shown.index].rank
    }

    fn narrowest(&self, shown: &[Shown]) -> usize {
        total(shown.iter().map(|one| self.columns[one.index].narrowest(one.width)))
    }

    /// Takes width from the widest columns that can spare it.
    fn shrink(&self, shown: &mut [Shown], width: usize) {
        while total(shown.iter().map(|one| one.width)) > width {
            let spare = |one: &&mut Shown| one.width > self.columns[one.index].narrowest(one.width);
            match shown.iter_mut().filter(spare).max_by_key(|one| one.width) {
                Some(one) => one.width -= 1,
                None => return,
            }
        }
    }
}

impl Column {
    fn narrowest(&self, natural: usize) -> usize {
        match self.clip {
            Clip::Never => natural,
            Clip::End(columns) | Clip::Middle(columns) => natural.min(columns),
        }
    }

    fn clip<'a>(&self, cell: &'a str, width: usize) -> Cow<'a, str> {
        match self.clip {
            Clip::Never => Cow::Borrowed(cell),
            Clip::End(_) => text::clip_end(cell, width),
            Clip::Middle(_) => text::clip_middle(cell, width),
        }
    }
}

fn total(widths: impl Iterator<Item = usize>) -> usize {
    widths.fold(0, |sum, width| sum + width + GAP).saturating_sub(GAP)
}

fn remark_lines(remark: &Cell, paint: Paint, width: Option<usize>) -> Vec<String> {
    let columns = width.map_or(usize::MAX, |width| width.saturating_sub(INDENT));
    let lines = text::wrap(&remark.text, columns);
    let indent = " ".repeat(INDENT);
    lines.iter().map(|line| format!("{indent}{}", paint.text(remark.tone, line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::left("NAME").clip_middle(6),
        Column::right("COUNT"),
        Column::left("LABEL").rank(1),
        Column::left("LAST").rank(2),
    ];

    fn table() -> Table {
        let mut table = Table::new(&COLUMNS);
        table.row(["openai/gpt-4o".into(), Cell::number(1_234), "team".into(), "3m ago".into()]);
        table.row(["x".into(), Cell::number(0), "".into(), "now".into()]);
        table
    }

    fn lines(width: usize) -> Vec<String> {
        table().render(Paint(false), Some(width))
    }

    #[test]
    fn numbers_stand_right_and_lines_have_no_loose_ends() {
        let expected = [
            "NAME           COUNT  LABEL  LAST",
            "openai/gpt-4o  1,234  team   3m ago",
            "x                  0         now",
        ];
        assert_eq!(lines(80), expected);
        assert_eq!(table().render(Paint(false), None), expected);
    }

    #[test]
    fn a_narrow_terminal_clips_first_and_then_leaves_columns_out() {
        assert_eq!(lines(29)[1], "ope…-4o  1,234  team   3m ago");
        assert_eq!(
            lines(27),
            ["NAME           COUNT  LABEL", "openai/gpt-4o  1,234  team", "x                  0"]
        );
        assert_eq!(lines(15)[1], "open…-4o  1,234");
        assert_eq!(lines(3)[1], "ope…4o  1,234");
    }

    #[test]
    fn columns_without_content_are_left_out() {
        let mut table = Table::new(&COLUMNS);
        table.row(["x".into(), Cell::number(1), "".into(), "".into()]);
        assert_eq!(table.render(Paint(false), None), ["NAME  COUNT", "x         1"]);
    }

    #[test]
    fn cells_cannot_act_on_the_terminal() {
        let mut table = Table::new(&[Column::left("NAME")]);
        table.row(["a\u{1b}[2Jb".into()]);
        table.remark(Tone::Bad, "c\nd");
        let text = table.render(Paint(false), None).join("|");
        assert_eq!(text, "NAME|a\\u{1b}[2Jb|  c\\nd");
    }

    #[test]
    fn remarks_wrap_below_their_row() {
        let mut table = Table::new(&[Column::left("NAME")]);
        table.row(["sqlite".into()]);
        table.remark(Tone::Bad, "database or disk is full");
        let lines = table.render(Paint(false), Some(18));
        assert_eq!(lines[2..], ["  database or disk", "  is full"]);
    }
}
