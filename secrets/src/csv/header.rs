use super::problem::Problems;
use super::rows::{Row, Rows};

pub(super) const PROVIDER: &str = "provider";
pub(super) const MODEL: &str = "model";
pub(super) const API_KEY: &str = "api_key";
pub(super) const WEIGHT: &str = "weight";
pub(super) const MAX_HOLDERS: &str = "max_holders";
pub(super) const LABEL: &str = "label";

const KNOWN: [&str; 6] = [PROVIDER, MODEL, API_KEY, WEIGHT, MAX_HOLDERS, LABEL];
const REQUIRED: [&str; 3] = [PROVIDER, MODEL, API_KEY];
const API_KEY_MISSPELT: [&str; 5] = ["apikey", "key", "secret", "token", "apisecret"];
const NAMED_CHARS_MAX: usize = 32;
const NAMED_COUNT_MAX: usize = 10;

/// Which cell of a row is which column.
#[derive(Debug)]
pub(super) struct Header {
    /// How many cells the header has.
    pub(super) cells_count: usize,
    places: [Option<usize>; KNOWN.len()],
}

impl Header {
    /// Reads the first row as the header; nothing when it is not one, and then
    /// why is in `problems`.
    pub(super) fn read(rows: &mut Rows, problems: &mut Problems) -> Option<Self> {
        let from_here = rows.copy();
        let Some(row) = rows.next_row() else {
            problems.error(
                None,
                None,
                "has no rows; the first line must be provider,model,api_key",
            );
            return None;
        };
        let header = Self::of(&row);
        let missing: Vec<&str> = header.missing().collect();
        if !missing.is_empty() {
            let message = match other_separator(&from_here) {
                Some(name) => {
                    format!("the cells are separated by {name}; save the file with commas")
                }
                None => missing_message(&missing, &row),
            };
            problems.error(Some(row.line), None, message);
            return None;
        }
        header.report_others(&row, problems);
        Some(header)
    }

    /// Which cell of a row is `column`; nothing when the header lacks it.
    pub(super) fn place(&self, column: &str) -> Option<usize> {
        let index = KNOWN.iter().position(|known| *known == column)?;
        self.places[index]
    }

    fn of(row: &Row) -> Self {
        let place = |name: &str| row.cells.iter().position(|cell| is_named(cell.text(), name));
        Self { cells_count: row.cells.len(), places: KNOWN.map(place) }
    }

    fn missing(&self) -> impl Iterator<Item = &'static str> {
        REQUIRED.into_iter().filter(|name| self.place(name).is_none())
    }

    fn report_others(&self, row: &Row, problems: &mut Problems) {
        for name in KNOWN {
            if row.cells.iter().filter(|cell| is_named(cell.text(), name)).count() > 1 {
                problems.error(
                    Some(row.line),
                    Some(name),
                    "is in the header twice; remove one of the two columns",
                );
            }
        }
        let others: Vec<&str> = row
            .cells
            .iter()
            .map(|cell| cell.text())
            .filter(|text| !text.is_empty() && !KNOWN.iter().any(|known| is_named(text, known)))
            .collect();
        if !others.is_empty() {
            let names = named(&others);
            problems.warning(
                Some(row.line),
                None,
                format!(
                    "columns that are not used: {names}; the known ones are {}",
                    KNOWN.join(", ")
                ),
            );
        }
    }
}

fn is_named(text: &str, name: &str) -> bool {
    text.eq_ignore_ascii_case(name)
}

fn other_separator(from_here: &Rows) -> Option<&'static str> {
    let fits = |separator| {
        let row = from_here.copy().separated_by(separator).next_row();
        row.is_some_and(|row| Header::of(&row).missing().count() <= 1)
    };
    [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")]
        .into_iter()
        .find_map(|(separator, name)| fits(separator).then_some(name))
}

/// Quotes no cell: without a header, the first row holds a credential.
fn missing_message(missing: &[&str], row: &Row) -> String {
    let names = missing.join(", ");
    let misspelt = row.cells.iter().any(|cell| is_api_key_misspelt(cell.text()));
    let cure = match missing {
        [API_KEY] if misspelt => "rename the column with the keys to api_key",
        [_, _, _] => "make provider,model,api_key the first line",
        _ => "add it to the first line",
    };
    format!("the header has no column {names}; {cure}")
}

fn is_api_key_misspelt(text: &str) -> bool {
    let letters: String =
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    API_KEY_MISSPELT.contains(&letters.as_str())
}

fn named(others: &[&str]) -> String {
    let shown = others.iter().take(NAMED_COUNT_MAX).map(|name| match is_plain(name) {
        true => *name,
        false => "(one with an unusual name)",
    });
    let names: Vec<&str> = shown.collect();
    match others.len().saturating_sub(NAMED_COUNT_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.');
    name.len() <= NAMED_CHARS_MAX
        && name.chars().all(plain)
        && !super::plausible::looks_secret(name)
}
