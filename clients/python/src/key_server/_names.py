"""The closed lists of words that requests and answers use."""

from __future__ import annotations

from enum import Enum


class _Word(str, Enum):
    """A word of the wire, in lower case; `UNKNOWN` is one that this client is too old for."""

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Tier(_Word):
    """How much a key was used in the last hour."""

    UNKNOWN = "unknown"
    UNUSED = "unused"
    LIGHT = "light"
    MODERATE = "moderate"
    HEAVY = "heavy"


class Outcome(_Word):
    """How the use of a key ended."""

    SUCCESS = "success"
    RATE_LIMITED = "rate_limited"
    """The provider answered 429: the key cools for this model."""
    AUTH_FAILED = "auth_failed"
    """The provider refused the key (401, 403)."""
    PROVIDER_ERROR = "provider_error"
    """The provider failed (5xx, network): says nothing about the key."""
    CANCELLED = "cancelled"
    """The caller gave up, or its request was at fault."""


class ShortageReason(_Word):
    """Why a model got fewer keys than were asked for."""

    UNKNOWN = "unknown"
    UNKNOWN_MODEL = "unknown_model"
    POOL_TOO_SMALL = "pool_too_small"
    ALL_COOLING = "all_cooling"
    ALL_AT_CAP = "all_at_cap"
    NONE_USABLE = "none_usable"


class KeyState(_Word):
    """Whether a key can be selected, and if not, why."""

    UNKNOWN = "unknown"
    USABLE = "usable"
    COOLING = "cooling"
    AT_CAP = "at_cap"
    RETIRED = "retired"


class StatsView(_Word):
    """What the pages of `get_stats` list."""

    KEYS = "keys"
    POOLS = "pools"
    SESSIONS = "sessions"


class HealthStatus(_Word):
    """How the server is as a whole."""

    UNKNOWN = "unknown"
    OK = "ok"
    DEGRADED = "degraded"
    """Serving, but somebody should look at the backends and notes."""
    UNAVAILABLE = "unavailable"
    """Calls that must leave a record are refused."""


class Severity(_Word):
    """Whether a problem in the keys file stops a reload."""

    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"
