use std::borrow::Cow;
use std::fmt::Write;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` without anything that a terminal would act on: control characters,
/// and those that reorder or hide text, are written as in `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_active(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// `json` with the same characters written as JSON escapes; they can only stand
/// within its strings, so the value stays the same.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    let is_active = |c: char| c != '\n' && is_active(c);
    if !json.contains(is_active) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if !is_active(c) {
            safe.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(safe, "\\u{unit:04x}").expect("writing text to memory does not fail");
        }
    }
    Cow::Owned(safe)
}

/// Control characters, line and paragraph separators, direction marks and
/// overrides, characters without a width.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{061c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The start of `text` in at most `columns`, with `…` when something is missing.
pub(crate) fn clip_end(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", head(text, columns.saturating_sub(1))))
}

/// The start and the end of `text` in at most `columns`.
pub(crate) fn clip_middle(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let kept = columns.saturating_sub(1);
    let start = head(text, kept.div_ceil(2));
    let end = tail(text, kept - kept.div_ceil(2));
    Cow::Owned(format!("{start}…{end}"))
}

fn head(text: &str, columns: usize) -> &str {
    let end = fitting_bytes(text.chars(), columns);
    &text[..end]
}

fn tail(text: &str, columns: usize) -> &str {
    let start = text.len() - fitting_bytes(text.chars().rev(), columns);
    &text[start..]
}

fn fitting_bytes(chars: impl Iterator<Item = char>, columns: usize) -> usize {
    let mut used = 0;
    let fitting = chars.take_while(|c| {
        used += c.width().unwrap_or(0);
        used <= columns
    });
    fitting.map(char::len_utf8).sum()
}

/// `text` in lines of at most `columns`, broken between words where it can be.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        push_word(&mut lines, word, columns.max(8));
    }
    lines
}

fn push_word(lines: &mut Vec<String>, mut word: &str, columns: usize) {
    let last = lines.last_mut().expect("there is always a line");
    let gap = usize::from(!last.is_empty());
    if width(last) + gap + width(word) <= columns {
        last.push_str(&" "[..gap]);
        last.push_str(word);
        return;
    }
    if gap == 1 {
        lines.push(String::new());
    }
    while width(word) > columns {
        let (line, rest) = word.split_at(head(word, columns).len());
        lines.last_mut().expect("there is always a line").push_str(line);
        lines.push(String::new());
        word = rest;
    }
    lines.last_mut().expect("there is always a line").push_str(word);
}

/// `one` of it, or `1,234` of `many`.
pub(crate) fn counted(count: impl TryInto<i128>, one: &str, many: &str) -> String {
    let count = count.try_into().unwrap_or(i128::MAX);
    format!("{} {}", thousands(count), if count == 1 { one } else { many })
}

/// A whole number with thousands separators.
pub(crate) fn thousands(number: impl TryInto<i128>) -> String {
    let number = number.try_into().unwrap_or(i128::MAX);
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_acts_on_is_left() {
        assert_eq!(
            escape("a\u{1b}[31mb\u{9b}c\u{202e}d\r\ne"),
            "a\\u{1b}[31mb\\u{9b}c\\u{202e}d\\r\\ne"
        );
        assert!(matches!(escape("grün – 鍵"), Cow::Borrowed(_)));
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let json = serde_json::json!({ "exe": "a\u{7f}\u{9b}\u{202e}\u{e0041}\n\u{1b}" });
        let text = serde_json::to_string_pretty(&json).unwrap();
        let safe = escape_json(&text);
        assert!(!safe.contains(['\u{7f}', '\u{9b}', '\u{202e}', '\u{e0041}']), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), json);
    }

    #[test]
    fn clipped_text_has_the_width_it_was_given() {
        assert_eq!(clip_end("abcdef", 4), "abc…");
        assert_eq!(clip_end("abcd", 4), "abcd");
        assert_eq!(clip_middle("abcdefgh", 5), "ab…gh");
        assert_eq!(clip_middle("abcdefgh", 6), "abc…gh");
        assert_eq!(clip_end("鍵鍵鍵", 4), "鍵…");
        assert_eq!(clip_middle("鍵鍵鍵鍵", 1), "…");
    }

    #[test]
    fn words_wrap_and_long_ones_break() {
        assert_eq!(wrap("one two three four", 9), ["one two", "three", "four"]);
        assert_eq!(wrap("ab 0123456789", 8), ["ab", "01234567", "89"]);
        assert_eq!(wrap("", 10), [""]);
    }

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(counted(1, "key", "keys"), "1 key");
        assert_eq!(counted(1_200, "key", "keys"), "1,200 keys");
    }
}
