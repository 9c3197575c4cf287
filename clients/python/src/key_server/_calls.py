"""Each verb as a value: what to send, how to read the answer. No input or output here."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, TypeVar, Union

from . import _decode, _wire
from ._errors import InvalidRequest
from ._names import Outcome, StatsView

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from ._answers import Health, Release, ReloadReport, Stats, TrackedUsage
    from ._key import SelectedKeys

Answer = TypeVar("Answer")
Word = TypeVar("Word", Outcome, StatsView)
Seconds = Union[float, timedelta]

SERVICE = "keyserver.v1.KeyServer"


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One call, ready to be sent as often as its retries need."""

    verb: str
    request: Message
    parse: Callable[[bytes], Any]
    """Makes a protobuf message of the bytes of the reply."""
    read: Callable[[Any], Answer]
    """Makes our own types of that message, or raises what it says."""
    repeatable: bool = True
    """Whether sending it twice is the same as once."""

    @property
    def method(self) -> str:
        return f"/{SERVICE}/{self.verb}"


def select_keys_for_session(
    session_id: str, user_id: int, models: Iterable[str], count_per_model: int
) -> Call[SelectedKeys]:
    """Repeatable: the session's second selection gives what it already holds."""
    if isinstance(models, str):
        raise _invalid(f"models is the text {models!r}", "give a list of provider/model names")
    wire = _wire.key_server_pb2
    request = _message(
        wire.SelectKeysRequest,
        session_id=session_id,
        user_id=user_id,
        models=list(models),
        count_per_model=count_per_model,
    )
    return Call(
        "SelectKeysForSession",
        request,
        wire.SelectKeysResponse.FromString,
        _decode.selected_keys,
    )


def track_usage(
    session_id: str,
    key_id: str,
    model: str,
    *,
    input_tokens: int,
    output_tokens: int,
    cached_input_tokens: int,
    outcome: Union[Outcome, str],
    event_id: Optional[str],
    occurred_at: Optional[datetime],
    retry_after: Optional[Seconds],
) -> Call[TrackedUsage]:
    """Repeatable: the event id makes it count once."""
    wire = _wire.key_server_pb2
    event = event_id or uuid.uuid4().hex
    request = _message(
        wire.TrackUsageRequest,
        session_id=session_id,
        key_id=key_id,
        model=model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached_input_tokens,
        outcome=wire.Outcome.Value(f"OUTCOME_{_word(Outcome, outcome).name}"),
        event_id=event,
        occurred_at=_timestamp(occurred_at),
        retry_after=_duration(retry_after),
    )
    return Call(
        "TrackUsage",
        request,
        wire.TrackUsageResponse.FromString,
        lambda reply: _decode.tracked_usage(reply, event),
    )


def get_stats(
    *,
    provider: Optional[str],
    model: Optional[str],
    key_id: Optional[str],
    user_id: Optional[int],
    session_id: Optional[str],
    view: Union[StatsView, str],
    page_size: Optional[int],
    page_token: Optional[str],
    by_node: bool,
) -> Call[Stats]:
    """Repeatable: it only reads."""
    wire = _wire.key_server_pb2
    request = _message(
        wire.GetStatsRequest,
        provider=provider,
        model=model,
        key_id=key_id,
        user_id=user_id,
        session_id=session_id,
        view=wire.StatsView.Value(f"STATS_VIEW_{_word(StatsView, view).name}"),
        page_size=page_size,
        page_token=page_token,
        by_node=by_node,
    )
    return Call("GetStats", request, wire.GetStatsResponse.FromString, _decode.stats)


def reload_keys(path: Optional[str], force: bool, dry_run: bool) -> Call[ReloadReport]:
    """Not repeatable: the second answer would say that nothing changed."""
    wire = _wire.key_server_pb2
    request = _message(wire.ReloadKeysRequest, path=path, force=force, dry_run=dry_run)
    return Call(
        "ReloadKeys",
        request,
        wire.ReloadKeysResponse.FromString,
        lambda reply: _decode.reload_report(reply, dry_run=dry_run),
        repeatable=dry_run,
    )


def release_key(session_id: str, key_id: Optional[str], model: Optional[str]) -> Call[Release]:
    """Repeatable: what was given back stays given back."""
    wire = _wire.key_server_pb2
    request = _message(wire.ReleaseKeyRequest, session_id=session_id, key_id=key_id, model=model)
    return Call("ReleaseKey", request, wire.ReleaseKeyResponse.FromString, _decode.release)


def health_check() -> Call[Health]:
    """Repeatable: it only reads."""
    wire = _wire.key_server_pb2
    return Call("Health", wire.HealthRequest(), wire.HealthResponse.FromString, _decode.health)


def _message(kind: Callable[..., Message], **fields: Any) -> Message:
    """Builds a request; None means absent, and a value of a wrong type or range is named."""
    present = {name: value for name, value in fields.items() if value is not None}
    try:
        return kind(**present)
    except (TypeError, ValueError) as error:
        name = next((n for n, v in present.items() if not _fits(kind, n, v)), "a field")
        shown = f"{name} is {present.get(name)!r}"
        raise _invalid(shown, f"wrong type or range for {name}: {error}") from None


def _fits(kind: Callable[..., Message], name: str, value: Any) -> bool:
    try:
        kind(**{name: value})
    except (TypeError, ValueError):
        return False
    return True


def _word(kind: type[Word], given: Union[Word, str]) -> Word:
    try:
        return kind(given)
    except ValueError:
        words = ", ".join(str(word) for word in kind)
        raise _invalid(f"{kind.__name__} is {given!r}", f"one of: {words}") from None


def _timestamp(at: Optional[datetime]) -> Optional[Timestamp]:
    if at is None:
        return None
    if at.utcoffset() is None:
        raise _invalid("occurred_at has no time zone", "for now: datetime.now(timezone.utc)")
    from google.protobuf.timestamp_pb2 import Timestamp  # noqa: PLC0415 - loaded when used

    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp


def _duration(given: Optional[Seconds]) -> Optional[Duration]:
    if given is None:
        return None
    from google.protobuf.duration_pb2 import Duration  # noqa: PLC0415 - loaded when used

    duration = Duration()
    try:
        duration.FromTimedelta(given if isinstance(given, timedelta) else timedelta(seconds=given))
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(f"retry_after is {given!r}", f"seconds or a timedelta: {error}") from None
    return duration


def _invalid(what: str, hint: str) -> InvalidRequest:
    return InvalidRequest(what, code="INVALID_ARGUMENT", hint=hint)
