/// How much a key was used in the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// No tokens in the window.
    Unused,
    /// Below the light limit.
    Light,
    /// Below the moderate limit.
    Moderate,
    /// Everything above.
    Heavy,
}

/// Where the tiers begin, and what each weighs in a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierTable {
    /// From this many window tokens on, a key is moderate.
    pub moderate_tokens: u64,
    /// From this many window tokens on, a key is heavy.
    pub heavy_tokens: u64,
    /// Weights of unused, light, moderate and heavy keys, each at most
    /// [`TierTable::WEIGHT_MAX`].
    pub weights: [u32; 4],
}

impl TierTable {
    /// The largest weight of a tier; a larger one counts as this.
    pub const WEIGHT_MAX: u32 = 1_000;

    /// The tier of a key that spent `window_tokens` in the last hour.
    pub fn tier(&self, window_tokens: u64) -> Tier {
        match window_tokens {
            0 => Tier::Unused,
            tokens if tokens < self.moderate_tokens => Tier::Light,
            tokens if tokens < self.heavy_tokens => Tier::Moderate,
            _ => Tier::Heavy,
        }
    }

    /// What `tier` weighs.
    pub fn weight(&self, tier: Tier) -> u32 {
        self.weights[tier as usize].min(Self::WEIGHT_MAX)
    }
}

impl Default for TierTable {
    fn default() -> Self {
        Self { moderate_tokens: 1_000, heavy_tokens: 5_000, weights: [100, 50, 20, 5] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_belong_to_the_higher_tier() {
        let table = TierTable::default();
        for (tokens, tier, weight) in [
            (0, Tier::Unused, 100),
            (1, Tier::Light, 50),
            (999, Tier::Light, 50),
            (1_000, Tier::Moderate, 20),
            (4_999, Tier::Moderate, 20),
            (5_000, Tier::Heavy, 5),
            (u64::MAX, Tier::Heavy, 5),
        ] {
            assert_eq!(table.tier(tokens), tier, "{tokens} tokens");
            assert_eq!(table.weight(tier), weight, "{tokens} tokens");
        }
    }
}
