//! Whether draws are as they should be.
//!
//! # Source
//! Pearson's test; for draws whose shares change, the randomised probability
//! integral transform: A. E. Brockwell, *Universal residuals*, 2007.

/// What is tested has this many classes.
pub(crate) const CLASSES: usize = 10;
/// What the statistic of ten classes exceeds once in a thousand times.
pub(crate) const ONCE_IN_A_THOUSAND: f64 = 27.877;

/// Pearson's statistic of counts that should be equal.
pub(crate) fn against_equal(counts: &[u64; CLASSES]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / CLASSES as f64;
    let distance = |&count: &u64| (count as f64 - expected).powi(2) / expected;
    counts.iter().map(distance).sum()
}

/// Draws, each from shares of its own. Where these are right, the places of
/// what was drawn are spread evenly over the shares laid side by side, the
/// largest first.
#[derive(Debug, Default)]
pub(crate) struct Places {
    counts: [u64; CLASSES],
    seed: u64,
}

impl Places {
    /// That `drawn` was drawn from these weights.
    pub(crate) fn add(&mut self, weights: &[f64; CLASSES], drawn: usize) {
        let mut order: [usize; CLASSES] = std::array::from_fn(|place| place);
        order.sort_by(|&one, &other| weights[other].total_cmp(&weights[one]));
        let before = order.iter().take_while(|&&one| one != drawn).map(|&one| weights[one]);
        let begin: f64 = before.sum();
        let place = (begin + self.random() * weights[drawn]) / weights.iter().sum::<f64>();
        self.counts[((place * CLASSES as f64) as usize).min(CLASSES - 1)] += 1;
    }

    /// The statistic of the places.
    pub(crate) fn statistic(&self) -> f64 {
        against_equal(&self.counts)
    }

    /// Below 1, by SplitMix64.
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [f64; CLASSES] = [9.0, 1.0, 5.0, 3.0, 2.0, 8.0, 7.0, 4.0, 6.0, 10.0];

    /// 20,000 draws from `shares`, as if they were from [`WEIGHTS`].
    fn statistic(shares: &[f64; CLASSES]) -> f64 {
        let (mut places, mut random) = (Places::default(), Places { seed: 7, ..Places::default() });
        for _ in 0..20_000 {
            let mut left = random.random() * shares.iter().sum::<f64>();
            let drawn = shares.iter().position(|share| {
                left -= share;
                left < 0.0
            });
            places.add(&WEIGHTS, drawn.unwrap_or(CLASSES - 1));
        }
        places.statistic()
    }

    #[test]
    fn draws_from_the_shares_are_not_rejected() {
        assert!(statistic(&WEIGHTS) < ONCE_IN_A_THOUSAND);
    }

    #[test]
    fn draws_from_other_shares_are_rejected() {
        assert!(statistic(&[1.0; CLASSES]) > ONCE_IN_A_THOUSAND);
    }

    #[test]
    fn equal_counts_are_no_distance_away() {
        assert!(against_equal(&[5; CLASSES]).abs() < 1e-9);
    }
}
