//! One line of the table.

/// What was measured, and what it should be.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// In words.
    pub(crate) what: &'static str,
    /// What it should be.
    pub(crate) goal: Goal,
    /// What it is, in the unit.
    pub(crate) measured: f64,
    /// Of goal and figure.
    pub(crate) unit: Unit,
    /// Figures behind it, and what else one should know.
    pub(crate) details: String,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// Nobody asked; it helps to read the others.
    None,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Ratio,
    Seconds,
    Milliseconds,
    Microseconds,
    Bytes,
    Mebibytes,
    Percent,
    PerSecond,
    Count,
}

impl Goal {
    /// Whether a figure reaches it; nothing to say without a goal.
    pub(crate) fn is_met(self, figure: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(figure <= most),
            Self::AtLeast(least) => Some(figure >= least),
            Self::None => None,
        }
    }

    /// As the table has it.
    pub(crate) fn show(self, unit: Unit) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {}", unit.show_goal(most)),
            Self::AtLeast(least) => format!("≥ {}", unit.show_goal(least)),
            Self::None => "–".to_owned(),
        }
    }
}

impl Unit {
    /// A measured figure.
    pub(crate) fn show(self, figure: f64) -> String {
        let decimals = match self {
            Self::Bytes | Self::PerSecond | Self::Count => 0,
            Self::Mebibytes => 1,
            Self::Ratio | Self::Seconds | Self::Milliseconds | Self::Microseconds => 2,
            Self::Percent => 3,
        };
        format!("{figure:.decimals$}{}", self.symbol())
    }

    /// A goal: a round number as it is.
    fn show_goal(self, figure: f64) -> String {
        format!("{figure}{}", self.symbol())
    }

    const fn symbol(self) -> &'static str {
        match self {
            Self::Ratio | Self::Count => "",
            Self::Seconds => " s",
            Self::Milliseconds => " ms",
            Self::Microseconds => " µs",
            Self::Bytes => " B",
            Self::Mebibytes => " MiB",
            Self::Percent => " %",
            Self::PerSecond => "/s",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_met_from_their_own_side() {
        assert_eq!(Goal::AtMost(1.25).is_met(1.25), Some(true));
        assert_eq!(Goal::AtLeast(0.7).is_met(0.69), Some(false));
        assert_eq!(Goal::None.is_met(0.0), None);
    }

    #[test]
    fn figures_are_shown_with_their_units() {
        assert_eq!(Goal::AtMost(1.25).show(Unit::Ratio), "≤ 1.25");
        assert_eq!(Goal::AtMost(300.0).show(Unit::Bytes), "≤ 300 B");
        assert_eq!(Unit::Microseconds.show(0.956), "0.96 µs");
    }
}
