//! One row: cells to values, every wrong cell reported.

use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{IdError, ModelName, OwnWeight};

use super::CsvLimits;
use super::header::{API_KEY, Header, LABEL, MAX_HOLDERS, MODEL, PROVIDER, WEIGHT};
use super::plausible;
use super::problem::Problems;
use super::rows::{Cell, Content, QuoteFault, Row};
use crate::SecretKey;
use crate::limits::{NAME_BYTES_MAX, check_label};

const QUOTED_CHARS_MAX: usize = 12;
const WEIGHT_DECIMALS_MAX: usize = 3;
const WEIGHT_DIGITS_MAX: usize = 7;
const MISPLACED: &str = "holds a key; put it into the column api_key, and compare the header";

/// What one row says of one key.
pub(super) struct Entry {
    pub(super) line: u32,
    pub(super) model: ModelName,
    pub(super) secret: SecretKey,
    pub(super) own_weight: Option<OwnWeight>,
    pub(super) max_holders: Option<NonZeroU32>,
    pub(super) label: Option<Arc<str>>,
}

/// Reads a row; nothing when a cell is wrong. All wrong cells are reported.
pub(super) fn read(
    header: &Header,
    row: &Row,
    limits: &CsvLimits,
    problems: &mut Problems,
) -> Option<Entry> {
    let broken = report_broken_quotes(row, problems);
    if broken || report_wrong_count(header, row, problems) {
        return None;
    }
    let mut cells = Cells { header, row, problems };
    let model = cells.model();
    let secret = cells.secret(limits.secret_bytes_max);
    let own_weight = cells.optional(WEIGHT, weight);
    let max_holders = cells.optional(MAX_HOLDERS, holders);
    let label = cells.optional(LABEL, label);
    let entry = Entry {
        line: row.line,
        model: model?,
        secret: secret?,
        own_weight: own_weight.ok()?,
        max_holders: max_holders.ok()?,
        label: label.ok()?,
    };
    cells.report_doubts(&entry);
    Some(entry)
}

fn report_broken_quotes(row: &Row, problems: &mut Problems) -> bool {
    let mut broken = false;
    for cell in &row.cells {
        let Content::Broken(fault) = cell.content else {
            continue;
        };
        broken = true;
        let message = match fault {
            QuoteFault::NeverClosed => {
                "a quote opens here and is never closed; close it, or remove it"
            }
            QuoteFault::TextAfterClosing => {
                "there is text after a closing quote; put the quotes around the whole cell, and double quotes inside it"
            }
        };
        problems.error(Some(cell.line), None, message);
    }
    broken
}

/// A row may lack optional cells at its end, and may end in empty ones.
fn report_wrong_count(header: &Header, row: &Row, problems: &mut Problems) -> bool {
    let needed = [PROVIDER, MODEL, API_KEY].into_iter().filter_map(|name| header.place(name));
    let needed_count = needed.max().map_or(0, |place| place + 1);
    let (count, expected) = (row.cells.len(), header.cells_count);
    let surplus = row.cells.iter().skip(expected).any(|cell| !cell.text().is_empty());
    let message = match () {
        () if surplus => format!(
            "has {count} cells, the header has {expected}; put quotes around a cell that contains a comma"
        ),
        () if count < needed_count => {
            format!("has {count} cells, the header has {expected}; add what is missing")
        }
        () => return false,
    };
    problems.error(Some(row.line), None, message);
    true
}

struct Cells<'row, 'text> {
    header: &'row Header,
    row: &'row Row<'text>,
    problems: &'row mut Problems,
}

impl<'row> Cells<'row, '_> {
    fn cell(&self, column: &'static str) -> Option<&'row Cell<'row>> {
        self.row.cells.get(self.header.place(column)?)
    }

    fn text(&self, column: &'static str) -> &'row str {
        self.cell(column).map_or("", Cell::text)
    }

    fn error(&mut self, column: &'static str, message: impl Into<String>) {
        let line = self.cell(column).map_or(self.row.line, |cell| cell.line);
        self.problems.error(Some(line), Some(column), message);
    }

    fn model(&mut self) -> Option<ModelName> {
        let (provider, model) = (self.text(PROVIDER), self.text(MODEL));
        let provider_fits = self.fits_name(PROVIDER, provider, "openai");
        let model_fits = self.fits_name(MODEL, model, "gpt-4o");
        if !provider_fits || !model_fits {
            return None;
        }
        match ModelName::new(provider, model) {
            Ok(name) => Some(name),
            Err(error) => {
                self.error(PROVIDER, name_message(error));
                None
            }
        }
    }

    fn fits_name(&mut self, column: &'static str, text: &str, example: &str) -> bool {
        let message = if text.is_empty() {
            format!("is empty; write it as in {example}")
        } else if text.len() > NAME_BYTES_MAX {
            format!("is longer than {NAME_BYTES_MAX} bytes; check for a missing line end or quote")
        } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            format!("has white space or control characters in it; write it as in {example}")
        } else if plausible::is_misplaced_secret(text) {
            String::from(MISPLACED)
        } else {
            return true;
        };
        self.error(column, message);
        false
    }

    fn secret(&mut self, bytes_max: usize) -> Option<SecretKey> {
        let text = self.text(API_KEY);
        let message = if text.is_empty() {
            String::from("is empty; put the key there or remove the row")
        } else if text.len() > bytes_max {
            let bytes = text.len();
            format!(
                "is {bytes} bytes long, more than {bytes_max}; check for a missing line end or quote"
            )
        } else if text.chars().any(char::is_control) {
            String::from("has control characters or line ends in it; copy the key again")
        } else if text.chars().any(char::is_whitespace) {
            String::from("has white space in it; copy the key again, without any")
        } else {
            return Some(SecretKey::copy_of(text));
        };
        self.error(API_KEY, message);
        None
    }

    /// The value of an optional cell: none when the cell is absent or empty,
    /// an error, reported here, when `parse` refuses it.
    fn optional<T>(
        &mut self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Reported> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        parse(text).map(Some).map_err(|message| {
            self.error(column, message);
            Reported
        })
    }

    fn report_doubts(&mut self, entry: &Entry) {
        let line = Some(self.cell(API_KEY).map_or(self.row.line, |cell| cell.line));
        let provider = entry.model.provider();
        for doubt in plausible::doubts(provider, entry.secret.expose()) {
            self.problems.warning(line, Some(API_KEY), doubt);
        }
        let repeated = entry.model.model().split_once('/');
        if repeated.is_some_and(|(first, _)| first.eq_ignore_ascii_case(provider)) {
            self.problems.warning(line, Some(MODEL), "begins with the provider again; remove it there unless the provider's own name for the model has it");
        }
    }
}

struct Reported;

fn name_message(error: IdError) -> &'static str {
    match error {
        IdError::ProviderWithSlash => {
            "has a / in it; write what comes after it into the column model"
        }
        _ => "is not a provider's name; write it as in openai",
    }
}

fn weight(text: &str) -> Result<OwnWeight, String> {
    let wrong = || {
        format!(
            "{}is not a decimal from 0 to 1000 with at most three decimals; write it as in 1 or 0.5",
            quoted(text)
        )
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits(whole)
        && digits(decimals)
        && whole.len() <= WEIGHT_DIGITS_MAX
        && decimals.len() <= WEIGHT_DECIMALS_MAX;
    if !fits {
        return Err(wrong());
    }
    format!("{whole}{decimals:0<3}")
        .parse()
        .ok()
        .and_then(OwnWeight::from_thousandths)
        .ok_or_else(wrong)
}

fn holders(text: &str) -> Result<NonZeroU32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(count) if digits => NonZeroU32::new(count).ok_or_else(|| {
            String::from(
                "is 0; leave it empty for no cap, or give weight 0 to take the key out of the draw",
            )
        }),
        _ => Err(format!(
            "{}is not a whole number from 1 to {}; leave it empty for no cap",
            quoted(text),
            u32::MAX
        )),
    }
}

fn label(text: &str) -> Result<Arc<str>, String> {
    check_label(text)?;
    if plausible::is_misplaced_secret(text) {
        return Err(String::from(MISPLACED));
    }
    Ok(text.into())
}

/// The text in quotes and a blank, if it is short, plain, and cannot be a
/// credential in the wrong column; else nothing.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let shown =
        text.len() <= QUOTED_CHARS_MAX && text.bytes().all(plain) && !plausible::looks_secret(text);
    match shown {
        true => format!("\"{text}\" "),
        false => String::new(),
    }
}
