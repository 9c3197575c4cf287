"""What the calls answer, as frozen dataclasses. Times are in UTC, with their zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Optional

from ._names import HealthStatus, KeyState, Severity, ShortageReason, Tier


@dataclass(frozen=True)
class Shortage:
    """Why a model got fewer keys than were asked for."""

    model: str
    """As in the request."""
    reason: ShortageReason
    wanted: int
    given: int
    """0 when the request was refused."""
    keys_total: int
    keys_cooling: int
    keys_at_cap: int
    retry_after: Optional[float]
    """Seconds until a key is expected to be usable again; None when not known."""
    did_you_mean: tuple[str, ...]
    """The nearest known names, when the model is unknown."""


@dataclass(frozen=True)
class TrackedUsage:
    """That a use was recorded."""

    event_id: str
    """The one given, or the one made: repeating the call with it counts nothing twice."""
    late: bool
    """True when the session or its hold on the key had already ended; counted all the same."""


@dataclass(frozen=True)
class Release:
    """What a release gave back."""

    released: int
    """Allocations given back by this call; 0 when it had been done before."""


@dataclass(frozen=True)
class Usage:
    """Sums of reported uses."""

    requests: int
    input_tokens: int
    """Cached ones included."""
    output_tokens: int
    cached_input_tokens: int
    failures: int
    """Reports with an outcome other than success."""


@dataclass(frozen=True)
class NodeKeyStats:
    """One node's part of a key."""

    node_id: str
    window_tokens: int
    lifetime: Usage
    last_used_at: Optional[datetime]


@dataclass(frozen=True)
class KeyStats:
    """One key, without its credential."""

    key_id: str
    provider: str
    models: tuple[str, ...]
    """ "provider/model" of each pool it serves."""
    label: str
    state: KeyState
    tier: Tier
    weight: float
    """Effective: tier weight x own weight / (1 + holders)."""
    own_weight: float
    holders: int
    """Live sessions that hold it."""
    max_holders: Optional[int]
    """None means no cap."""
    window_tokens: int
    """Spent in the last 60 minutes."""
    lifetime: Usage
    last_used_at: Optional[datetime]
    cooling_until: Optional[datetime]
    sources: tuple[str, ...]
    nodes: tuple[NodeKeyStats, ...] = ()
    """With by_node: each node's part; the other figures are of all nodes together."""


@dataclass(frozen=True)
class PoolStats:
    """The keys of one provider/model, counted by state."""

    provider: str
    model: str
    keys: int
    usable: int
    cooling: int
    at_cap: int


@dataclass(frozen=True)
class Allocation:
    """One key that a session holds or held for one model."""

    key_id: str
    model: str
    held: bool
    """False once it was released; late usage still counts."""
    usage: Usage


@dataclass(frozen=True)
class SessionStats:
    """One session and what it holds."""

    session_id: str
    owner_uid: int
    user_id: int
    opened_at: Optional[datetime]
    ended_at: Optional[datetime]
    """None for a live session."""
    expires_at: Optional[datetime]
    allocations: tuple[Allocation, ...]
    node_id: str = ""
    """The node it lives at; empty for the one that answered."""


@dataclass(frozen=True)
class Totals:
    """Of all nodes together, whatever the filters."""

    keys: int
    models: int
    sessions_live: int
    window_tokens: int
    lifetime: Usage


@dataclass(frozen=True)
class NodeTotals:
    """One node's part of the totals."""

    node_id: str
    sessions_live: int
    window_tokens: int
    lifetime: Usage


@dataclass(frozen=True)
class Stats:
    """One page of statistics; one of the three lists is filled, as the view says."""

    keys: tuple[KeyStats, ...]
    pools: tuple[PoolStats, ...]
    sessions: tuple[SessionStats, ...]
    totals: Totals
    next_page_token: str
    """Empty on the last page."""
    nodes: tuple[NodeTotals, ...] = ()
    """With by_node: each node's part of the totals."""


@dataclass(frozen=True)
class RowProblem:
    """What is wrong with a row of the keys file; never the credential."""

    severity: Severity
    line: int
    """Counted from 1, the header included; 0 when the whole file is meant."""
    column: str
    """Empty when the whole row is meant."""
    message: str


@dataclass(frozen=True)
class ReloadReport:
    """What a reload changed, or would change."""

    success: bool
    """False (in a dry run; else `ReloadRefused` is raised) when it would be refused."""
    added: int
    changed: int
    withdrawn: int
    unchanged: int
    problems: tuple[RowProblem, ...]
    error: str
    """In words, why not; empty on success."""


@dataclass(frozen=True)
class Backend:
    """One part that the server stands on."""

    name: str
    state: str
    """ "ok", "degraded" or "unavailable"."""
    since: Optional[datetime]
    last_error: str


@dataclass(frozen=True)
class FleetNode:
    """Another node of the fleet."""

    node_id: str
    version: str
    silent_seconds: float
    """How long ago it last said that it is there."""


@dataclass(frozen=True)
class Health:
    """How the server is."""

    status: HealthStatus
    version: str
    uptime_seconds: float
    node_id: str
    keys: int
    models: int
    sessions: int
    ledger_position: int
    """The last durable sequence number of the ledger."""
    durability: str
    """ "disk" or "process"."""
    backends: tuple[Backend, ...]
    notes: tuple[str, ...]
    """What somebody should look at, in words."""
    pid: int
    """The server's process."""
    nodes: tuple[FleetNode, ...] = ()
    """The other nodes that this one shares its state with."""

    @property
    def ok(self) -> bool:
        """True when nobody needs to look."""
        return self.status is HealthStatus.OK
