//! Names and values below each other.

use super::paint::{Paint, Tone};
use super::text;

/// Between a name and its value.
const GAP: usize = 2;

/// What is known of one thing, a name and its value a line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts(Vec<Fact>);

#[derive(Clone, Debug)]
struct Fact {
    name: &'static str,
    tone: Tone,
    value: String,
}

impl Facts {
    /// Adds a value; an empty one is left out.
    pub(crate) fn add(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.add_in(Tone::Plain, name, value);
    }

    /// Adds a value in a colour.
    pub(crate) fn add_in(&mut self, tone: Tone, name: &'static str, value: impl AsRef<str>) {
        let value = text::escape(value.as_ref()).into_owned();
        if !value.is_empty() {
            self.0.push(Fact { name, tone, value });
        }
    }

    /// Adds values below each other under one name.
    pub(crate) fn add_list(&mut self, name: &'static str, values: &[String]) {
        for (index, value) in values.iter().enumerate() {
            self.add(if index == 0 { name } else { "" }, value);
        }
    }

    /// The lines, at most `width` wide if that can be.
    pub(crate) fn render(&self, paint: Paint, width: Option<usize>) -> Vec<String> {
        let names = self.0.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
        let columns = width.map_or(usize::MAX, |width| width.saturating_sub(names + GAP));
        let mut lines = Vec::new();
        for fact in &self.0 {
            for (index, value) in text::wrap(&fact.value, columns).iter().enumerate() {
                let name = if index == 0 { fact.name } else { "" };
                let name = format!("{name:names$}");
                let (name, value) = (paint.text(Tone::Faint, &name), paint.text(fact.tone, value));
                lines.push(format!("{name}{}{value}", " ".repeat(GAP)));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_one_column_and_values_wrap_in_the_next() {
        let mut facts = Facts::default();
        facts.add("key", "k_1");
        facts.add("label", "");
        facts.add("state", "cooling, again in 3m");
        facts.add_list("models", &["a/b".to_owned(), "a/c".to_owned()]);
        let lines = facts.render(Paint(false), Some(24));
        let expected = [
            "key     k_1",
            "state   cooling, again",
            "        in 3m",
            "models  a/b",
            "        a/c",
        ];
        assert_eq!(lines, expected);
    }
}
