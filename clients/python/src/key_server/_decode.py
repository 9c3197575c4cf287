"""Our own types of the server's replies; a refusal in a reply is raised."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from . import _wire
from ._answers import (
    Allocation,
    Backend,
    FleetNode,
    Health,
    KeyStats,
    NodeKeyStats,
    NodeTotals,
    PoolStats,
    Release,
    ReloadReport,
    RowProblem,
    SessionStats,
    Shortage,
    Stats,
    Totals,
    TrackedUsage,
    Usage,
)
from ._errors import InternalError, KeyServerError, NoKeysAvailable, ReloadRefused, UnknownModel
from ._key import Key, SelectedKeys
from ._names import (
    HealthStatus,
    KeyState,
    Severity,
    ShortageReason,
    Tier,
)

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from ._wire import key_server_pb2 as pb

Word = TypeVar("Word", HealthStatus, KeyState, Severity, ShortageReason, Tier)

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def selected_keys(reply: pb.SelectKeysResponse) -> SelectedKeys:
    """Errors: `UnknownModel` when one is, else `NoKeysAvailable`, on `success = false`."""
    shortages = tuple(_shortage(shortage) for shortage in reply.shortages)
    if not reply.success:
        raise _refused_selection(reply.error, shortages)
    return SelectedKeys(
        (_key(key) for key in reply.keys),
        expires_at=_instant(reply, "expires_at"),
        shortages=shortages,
    )


def tracked_usage(reply: pb.TrackUsageResponse, event_id: str) -> TrackedUsage:
    if not reply.success:
        raise InternalError("the usage was not recorded, and no reason was given", code="UNKNOWN")
    return TrackedUsage(event_id=event_id, late=reply.late)


def release(reply: pb.ReleaseKeyResponse) -> Release:
    return Release(released=reply.released)


def reload_report(reply: pb.ReloadKeysResponse, *, dry_run: bool) -> ReloadReport:
    """Errors: `ReloadRefused` on `success = false`, unless it was a dry run."""
    report = ReloadReport(
        success=reply.success,
        added=reply.added,
        changed=reply.changed,
        withdrawn=reply.withdrawn,
        unchanged=reply.unchanged,
        problems=tuple(_problem(problem) for problem in reply.problems),
        error=reply.error,
    )
    if report.success or dry_run:
        return report
    refused = ReloadRefused(
        report.error or "the keys file was refused",
        code="FAILED_PRECONDITION",
        reason="RELOAD_REFUSED",
    )
    refused.report = report
    raise refused


def stats(reply: pb.GetStatsResponse) -> Stats:
    return Stats(
        keys=tuple(_key_stats(key) for key in reply.keys),
        pools=tuple(_pool_stats(pool) for pool in reply.pools),
        sessions=tuple(_session_stats(session) for session in reply.sessions),
        totals=_totals(reply.totals),
        next_page_token=reply.next_page_token,
        nodes=tuple(
            NodeTotals(
                node_id=node.node_id,
                sessions_live=node.sessions_live,
                window_tokens=node.window_tokens,
                lifetime=_usage(node.lifetime),
            )
            for node in reply.nodes
        ),
    )


def health(reply: pb.HealthResponse) -> Health:
    return Health(
        status=_word(
            HealthStatus, _wire.key_server_pb2.HealthStatus, "HEALTH_STATUS_", reply.status
        ),
        version=reply.version,
        uptime_seconds=seconds(reply.uptime),
        node_id=reply.node_id,
        keys=reply.keys,
        models=reply.models,
        sessions=reply.sessions,
        ledger_position=reply.ledger_position,
        durability=reply.durability,
        backends=tuple(_backend(backend) for backend in reply.backends),
        notes=tuple(reply.notes),
        pid=reply.pid,
        nodes=tuple(
            FleetNode(node.node_id, node.version, seconds(node.silent_for)) for node in reply.nodes
        ),
    )


def seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _refused_selection(error: str, shortages: tuple[Shortage, ...]) -> KeyServerError:
    refusals = tuple(shortage for shortage in shortages if not shortage.given)
    unknown = tuple(s for s in refusals if s.reason is ShortageReason.UNKNOWN_MODEL)
    return _unknown_model(error, refusals, unknown) if unknown else _no_keys(error, refusals)


def _unknown_model(
    error: str, refusals: tuple[Shortage, ...], unknown: tuple[Shortage, ...]
) -> UnknownModel:
    names = [shortage.model for shortage in unknown]
    near = tuple(dict.fromkeys(name for shortage in unknown for name in shortage.did_you_mean))
    refused = UnknownModel(
        error or f"no key serves {', '.join(names)}",
        code="NOT_FOUND",
        reason="UNKNOWN_MODEL",
        hint=f"did you mean {' or '.join(near)}?" if near and near[0] not in error else "",
    )
    refused.shortages = refusals
    refused.models = tuple(names)
    refused.did_you_mean = near
    return refused


def _no_keys(error: str, refusals: tuple[Shortage, ...]) -> NoKeysAvailable:
    waits = [shortage.retry_after for shortage in refusals]
    known = [wait for wait in waits if wait is not None]
    reasons = {shortage.reason for shortage in refusals}
    refused = NoKeysAvailable(
        error or f"no usable key for {', '.join(s.model for s in refusals) or 'the models'}",
        code="RESOURCE_EXHAUSTED",
        reason=(reasons.pop() if len(reasons) == 1 else ShortageReason.NONE_USABLE).name,
        retry_after=max(known) if known and len(known) == len(waits) else None,
    )
    refused.shortages = refusals
    return refused


def _key(key: pb.SelectedKey) -> Key:
    return Key(
        provider=key.provider,
        model=key.model,
        api_key=key.api_key,
        key_id=key.key_id,
        tier=_tier(key.tier),
        expires_at=_instant(key, "expires_at"),
        already_held=key.already_held,
    )


def _shortage(shortage: pb.Shortage) -> Shortage:
    return Shortage(
        model=shortage.model,
        reason=_word(
            ShortageReason,
            _wire.key_server_pb2.ShortageReason,
            "SHORTAGE_REASON_",
            shortage.reason,
        ),
        wanted=shortage.wanted,
        given=shortage.given,
        keys_total=shortage.keys_total,
        keys_cooling=shortage.keys_cooling,
        keys_at_cap=shortage.keys_at_cap,
        retry_after=seconds(shortage.retry_after) if shortage.HasField("retry_after") else None,
        did_you_mean=tuple(shortage.did_you_mean),
    )


def _key_stats(key: pb.KeyStats) -> KeyStats:
    return KeyStats(
        key_id=key.key_id,
        provider=key.provider,
        models=tuple(key.models),
        label=key.label,
        state=_word(KeyState, _wire.key_server_pb2.KeyState, "KEY_STATE_", key.state),
        tier=_tier(key.tier),
        weight=key.weight,
        own_weight=key.own_weight,
        holders=key.holders,
        max_holders=key.max_holders or None,
        window_tokens=key.window_tokens,
        lifetime=_usage(key.lifetime),
        last_used_at=_instant(key, "last_used_at"),
        cooling_until=_instant(key, "cooling_until"),
        sources=tuple(key.sources),
        nodes=tuple(
            NodeKeyStats(
                node_id=node.node_id,
                window_tokens=node.window_tokens,
                lifetime=_usage(node.lifetime),
                last_used_at=_instant(node, "last_used_at"),
            )
            for node in key.nodes
        ),
    )


def _pool_stats(pool: pb.PoolStats) -> PoolStats:
    return PoolStats(
        provider=pool.provider,
        model=pool.model,
        keys=pool.keys,
        usable=pool.usable,
        cooling=pool.cooling,
        at_cap=pool.at_cap,
    )


def _session_stats(session: pb.SessionStats) -> SessionStats:
    return SessionStats(
        session_id=session.session_id,
        owner_uid=session.owner_uid,
        user_id=session.user_id,
        opened_at=_instant(session, "opened_at"),
        ended_at=_instant(session, "ended_at"),
        expires_at=_instant(session, "expires_at"),
        allocations=tuple(
            Allocation(
                key_id=allocation.key_id,
                model=allocation.model,
                held=allocation.held,
                usage=_usage(allocation.usage),
            )
            for allocation in session.allocations
        ),
        node_id=session.node_id,
    )


def _totals(totals: pb.Totals) -> Totals:
    return Totals(
        keys=totals.keys,
        models=totals.models,
        sessions_live=totals.sessions_live,
        window_tokens=totals.window_tokens,
        lifetime=_usage(totals.lifetime),
    )


def _usage(usage: pb.Usage) -> Usage:
    return Usage(
        requests=usage.requests,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        failures=usage.failures,
    )


def _problem(problem: pb.RowProblem) -> RowProblem:
    return RowProblem(
        severity=_word(
            Severity, _wire.key_server_pb2.RowProblem.Severity, "SEVERITY_", problem.severity
        ),
        line=problem.line,
        column=problem.column,
        message=problem.message,
    )


def _backend(backend: pb.Backend) -> Backend:
    return Backend(
        name=backend.name,
        state=backend.state,
        since=_instant(backend, "since"),
        last_error=backend.last_error,
    )


def _tier(number: int) -> Tier:
    return _word(Tier, _wire.key_server_pb2.Tier, "TIER_", number)


def _word(kind: type[Word], enum: Any, prefix: str, number: int) -> Word:
    """Gives our word for a number of the wire; `UNKNOWN` for one that we do not have."""
    try:
        return kind[enum.Name(number)[len(prefix) :]]
    except (KeyError, ValueError):
        return kind["UNKNOWN"]


def _instant(message: Any, field: str) -> Optional[datetime]:
    """Reads a timestamp, to the microsecond; None when it is absent or out of range."""
    if not message.HasField(field):
        return None
    at: Timestamp = getattr(message, field)
    try:
        return EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    except OverflowError:
        return None
