"""The exception for each way a call can fail: the only place that knows gRPC's codes.

It reads `google.rpc.Status` from the trailing metadata; see docs/errors.md.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol, Union

from . import _decode, _wire
from ._errors import (
    Conflict,
    Corrupt,
    Exhausted,
    InternalError,
    InvalidRequest,
    KeyNotFound,
    KeyServerError,
    NotFound,
    PermissionDenied,
    SessionExpired,
    SessionNotFound,
    TimedOut,
    Unavailable,
    Unfit,
    Unidentified,
)

DETAILS = "grpc-status-details-bin"
NOT_CONNECTED = "failed to connect to all addresses"

BY_CODE: dict[str, type[KeyServerError]] = {
    "UNAUTHENTICATED": Unidentified,
    "PERMISSION_DENIED": PermissionDenied,
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": Exhausted,
    "FAILED_PRECONDITION": Unfit,
    "ALREADY_EXISTS": Conflict,
    "DATA_LOSS": Corrupt,
    "INTERNAL": InternalError,
    "DEADLINE_EXCEEDED": TimedOut,
}

# A reason that contains the word, under this code, has a class of its own.
BY_REASON: tuple[tuple[str, str, type[KeyServerError]], ...] = (
    ("NOT_FOUND", "SESSION", SessionNotFound),
    ("NOT_FOUND", "KEY", KeyNotFound),
    ("FAILED_PRECONDITION", "SESSION", SessionExpired),
)

HINTS = {
    "UNAUTHENTICATED": "ask the operator: the server could not tell which user is calling",
    "UNIMPLEMENTED": "the server is older than this client, or another service has this socket",
    "DEADLINE_EXCEEDED": "whether it was carried out is not known; repeating is safe, "
    "for track_usage with the same event_id",
}


@dataclass(frozen=True)
class Details:
    """What a server's status tells beside code and message."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    retry_after: Optional[float] = None


class FailedCall(Protocol):
    """What gRPC raises: the error of a call is also the finished call."""

    def code(self) -> Any: ...
    def details(self) -> Optional[str]: ...
    def trailing_metadata(self) -> Optional[Iterable[tuple[str, Union[str, bytes]]]]: ...


def failure(error: FailedCall, path: str) -> KeyServerError:
    """Gives the exception for a failed call; `path` is the socket it was made to."""
    code: str = error.code().name
    message = error.details() or ""
    details = _details(error)
    if code == "UNAVAILABLE":
        if details is None:
            return _unreachable(path, message)
        return Unavailable(
            message,
            reason=details.reason,
            retry_after=details.retry_after,
            metadata=details.metadata,
            path=path,
        )
    details = details or Details()
    return _class(code, details.reason)(
        message or code,
        code=code,
        reason=details.reason,
        hint=HINTS.get(code, ""),
        retry_after=details.retry_after,
        metadata=details.metadata,
    )


def _class(code: str, reason: str) -> type[KeyServerError]:
    for with_code, word, kind in BY_REASON:
        if code == with_code and word in reason:
            return kind
    return BY_CODE.get(code, KeyServerError)


def _details(error: FailedCall) -> Optional[Details]:
    """Reads the status in the trailing metadata; None when the server sent none."""
    trailing = error.trailing_metadata() or ()
    content = next((value for name, value in trailing if name == DETAILS), None)
    return _parsed(content) if isinstance(content, bytes) else None


def _parsed(content: bytes) -> Details:
    wire = _wire.status_details_pb2
    reason, retry_after = "", None
    metadata: dict[str, str] = {}
    try:
        for detail in wire.Status.FromString(content).details:
            kind = detail.type_url.rpartition("/")[2]
            if kind == "google.rpc.ErrorInfo":
                info = wire.ErrorInfo.FromString(detail.value)
                reason, metadata = info.reason, dict(info.metadata)
            elif kind == "google.rpc.RetryInfo":
                retry = wire.RetryInfo.FromString(detail.value)
                retry_after = _decode.seconds(retry.retry_delay)
    except Exception:  # noqa: S110 - protobuf's DecodeError; bad details hide no failure
        pass
    return Details(reason, metadata, retry_after)


def _unreachable(path: str, message: str) -> Unavailable:
    """Finds out, by connecting once more, why nobody answered on this socket."""
    number = connect_errno(path)
    sent = not message.startswith(NOT_CONNECTED)
    if number is None:
        return Unavailable(
            f"the connection to {path} ended before an answer: {message}",
            hint="the server was restarted or stopped; try again",
            path=path,
            answered=False,
            sent=sent,
        )
    return unconnected(path, number, sent=sent)


def unconnected(path: str, number: int, *, sent: bool) -> Unavailable:
    """Gives the exception for a socket that could not be connected to."""
    return Unavailable(
        f"cannot connect to {path}: {errno.errorcode.get(number, number)}, {os.strerror(number)}",
        hint=_hint(number, path),
        path=path,
        errno=number,
        answered=False,
        sent=sent,
    )


def connect_errno(path: str) -> Optional[int]:
    """Connects to the socket and leaves; None when somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return connect(probe, path)


def connect(probe: socket.socket, path: str) -> Optional[int]:
    """Connects without waiting; None when it is connected, else the error's number."""
    probe.setblocking(False)
    return probe.connect_ex(path) or None


def _hint(number: int, path: str) -> str:
    if number == errno.ENOENT:
        return (
            "start the server with `key-server serve`, or say where its socket is "
            "with the socket_path argument or KEY_SERVER_SOCKET"
        )
    if number == errno.ECONNREFUSED and not _is_socket(path):
        return "this is not a socket; give the path of the server's socket"
    if number == errno.ECONNREFUSED:
        return "nobody listens there any more; start the server with `key-server serve`"
    if number in (errno.EACCES, errno.EPERM):
        return f"uid {os.getuid()} may not use it; ask the operator to let you into its group"
    if number == errno.EAGAIN:
        return "the server has more connections waiting than it takes; try again"
    return "see whether the server runs: `key-server status`"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
