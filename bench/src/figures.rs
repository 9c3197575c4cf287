//! From many measurements to one figure.

use std::time::Duration;

/// The middle one; of an even number the higher of the two in the middle.
///
/// # Panics
/// When there are none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The time that half of the calls did not take.
pub(crate) fn median_time(times: &[Duration]) -> Duration {
    let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    Duration::from_secs_f64(median(&seconds))
}

/// The time that so many of a hundred calls did not exceed.
///
/// # Panics
/// When there are none.
pub(crate) fn percentile(times: &[Duration], percent: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The medians of two things measured in turns, and the median of the ratios
/// of the first to the second in each round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) first: f64,
    pub(crate) second: f64,
    pub(crate) ratio: f64,
}

/// Compares two things round by round.
///
/// # Panics
/// When there are no rounds.
pub(crate) fn compare(rounds: &[(f64, f64)]) -> Compared {
    let column = |of: fn(&(f64, f64)) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
    Compared {
        first: column(|round| round.0),
        second: column(|round| round.1),
        ratio: column(|round| round.0 / round.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_that_was_disturbed_does_not_move_the_ratio() {
        let compared = compare(&[(1.0, 2.0), (50.0, 2.0), (1.1, 2.0)]);
        assert!((compared.ratio - 0.55).abs() < 1e-9);
        assert!((compared.first - 1.1).abs() < 1e-9);
    }

    #[test]
    fn one_call_in_a_hundred_is_above_the_99th_percentile() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 99.0), Duration::from_millis(99));
        assert_eq!(percentile(&times[..1], 99.0), Duration::from_millis(1));
    }

    #[test]
    fn the_median_time_is_one_that_was_measured() {
        let times = [3, 1, 2].map(Duration::from_millis);
        assert_eq!(median_time(&times), Duration::from_millis(2));
    }
}
