//! The contract's enumerations as words for people and for JSON.

use key_server_proto::v1;

use crate::output::Tone;

pub(crate) fn health(status: v1::HealthStatus) -> &'static str {
    match status {
        v1::HealthStatus::Unspecified => "unknown",
        v1::HealthStatus::Ok => "ok",
        v1::HealthStatus::Degraded => "degraded",
        v1::HealthStatus::Unavailable => "unavailable",
    }
}

pub(crate) fn key_state(state: v1::KeyState) -> &'static str {
    match state {
        v1::KeyState::Unspecified => "unknown",
        v1::KeyState::Usable => "usable",
        v1::KeyState::Cooling => "cooling",
        v1::KeyState::AtCap => "at_cap",
        v1::KeyState::Retired => "retired",
    }
}

pub(crate) fn key_state_tone(state: v1::KeyState) -> Tone {
    match state {
        v1::KeyState::Usable => Tone::Good,
        v1::KeyState::Cooling | v1::KeyState::AtCap => Tone::Warn,
        v1::KeyState::Retired => Tone::Faint,
        v1::KeyState::Unspecified => Tone::Plain,
    }
}

pub(crate) fn tier(tier: v1::Tier) -> &'static str {
    match tier {
        v1::Tier::Unspecified => "unknown",
        v1::Tier::Unused => "unused",
        v1::Tier::Light => "light",
        v1::Tier::Moderate => "moderate",
        v1::Tier::Heavy => "heavy",
    }
}

pub(crate) fn shortage(reason: v1::ShortageReason) -> &'static str {
    match reason {
        v1::ShortageReason::Unspecified => "unknown",
        v1::ShortageReason::UnknownModel => "unknown_model",
        v1::ShortageReason::PoolTooSmall => "pool_too_small",
        v1::ShortageReason::AllCooling => "all_cooling",
        v1::ShortageReason::AllAtCap => "all_at_cap",
        v1::ShortageReason::NoneUsable => "none_usable",
    }
}

pub(crate) fn severity(severity: v1::row_problem::Severity) -> &'static str {
    match severity {
        v1::row_problem::Severity::Unspecified => "unknown",
        v1::row_problem::Severity::Warning => "warning",
        v1::row_problem::Severity::Error => "error",
    }
}

/// How a backend's state, or the server's, is shown.
pub(crate) fn state_tone(state: &str) -> Tone {
    match state {
        "ok" => Tone::Good,
        "degraded" => Tone::Warn,
        _ => Tone::Bad,
    }
}
