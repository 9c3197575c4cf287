//! What the texts beside a credential may be, whoever wrote them.

/// The longest name of a provider, a model or a source.
pub(crate) const NAME_BYTES_MAX: usize = 256;
/// How many models a key may be for, and how many sources may list it, where
/// they come in one piece.
pub(crate) const NAMES_COUNT_MAX: usize = 4_096;
const LABEL_CHARS_MAX: usize = 128;

/// What is wrong with a label, if anything is.
///
/// # Errors
/// In words that follow the name of the column or field.
pub(crate) fn check_label(text: &str) -> Result<(), &'static str> {
    if text.chars().count() > LABEL_CHARS_MAX {
        return Err("is longer than 128 characters; use a shorter one");
    }
    if text.chars().any(char::is_control) {
        return Err("has control characters or line ends in it; use plain text");
    }
    Ok(())
}
