use std::time::Duration;

pub use crate::tier::TierTable;

/// Allocations that all sessions of a kind, live or ended, may have together,
/// for each session that there may be: memory is bounded by both.
pub(crate) const ALLOCATIONS_PER_SESSION: usize = 8;

/// The numbers the rules are about; fixed while a state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Tier limits and weights.
    pub tiers: TierTable,
    /// How long a session lives after the last call that named it.
    pub session_ttl: Duration,
    /// How long an ended session is remembered, so that late usage counts.
    pub ended_session_ttl: Duration,
    /// How many ended sessions are remembered, with at most eight allocations
    /// for each; the oldest go first.
    pub ended_sessions_max: usize,
    /// How many live sessions there may be, with at most eight allocations for
    /// each.
    pub sessions_max: usize,
    /// How many allocations one session may hold or remember.
    pub session_allocations_max: usize,
    /// How many live sessions may hold a key that names no cap; 0: no cap.
    pub max_holders: u32,
    /// How long a rate-limited key cools when the provider named no time.
    pub cooldown: Duration,
    /// The longest cooldown that a report may cause.
    pub cooldown_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            tiers: TierTable::default(),
            session_ttl: Duration::from_secs(3_600),
            ended_session_ttl: Duration::from_secs(24 * 3_600),
            ended_sessions_max: 200_000,
            sessions_max: 2_000_000,
            session_allocations_max: 1_024,
            max_holders: 0,
            cooldown: Duration::from_secs(60),
            cooldown_max: Duration::from_secs(3_600),
        }
    }
}
