//! Words of the rules as words of the wire.

use key_server_core as core;
use key_server_proto::v1;

pub(super) fn tier(tier: core::Tier) -> v1::Tier {
    match tier {
        core::Tier::Unused => v1::Tier::Unused,
        core::Tier::Light => v1::Tier::Light,
        core::Tier::Moderate => v1::Tier::Moderate,
        core::Tier::Heavy => v1::Tier::Heavy,
    }
}

pub(super) fn usage(usage: core::Usage) -> v1::Usage {
    v1::Usage {
        requests: count(usage.requests),
        input_tokens: count(usage.tokens.input),
        output_tokens: count(usage.tokens.output),
        cached_input_tokens: count(usage.tokens.cached_input),
        failures: count(usage.failures),
    }
}

/// Counts on the wire are signed; sums stop at the largest.
pub(super) fn count(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

pub(super) fn small_count(count: impl TryInto<i32>) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}
