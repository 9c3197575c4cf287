"""What can go wrong, classed by what the caller can do.

No exception carries a key's text. All of them can be pickled.
"""

from __future__ import annotations

import errno as _errno
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from ._answers import ReloadReport, RowProblem, Shortage
    from ._names import ShortageReason


class KeyServerError(Exception):
    """Any failure of a call to Key Server.

    `code` is the name of the gRPC status ("NOT_FOUND"); a refused selection has the
    status that says the same. `reason` is the reason in `google.rpc.ErrorInfo`, empty
    when the server gave none, and `metadata` what came with it. `hint` says what to do.
    `retry_after` is in seconds, None when no time is known.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        hint: str = "",
        retry_after: Optional[float] = None,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.hint = hint
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Unavailable(KeyServerError):
    """The server cannot be reached, or says that it cannot serve now: try again later.

    `path` is the socket's. `errno` is the system's error number when the socket could
    not be connected to, else None. `answered` is True when the server itself refused;
    `sent` is False when the request surely never left this process.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNAVAILABLE",
        reason: str = "",
        hint: str = "",
        retry_after: Optional[float] = None,
        metadata: Optional[Mapping[str, str]] = None,
        path: str = "",
        errno: Optional[int] = None,
        answered: bool = True,
        sent: bool = True,
    ) -> None:
        super().__init__(
            message,
            code=code,
            reason=reason,
            hint=hint,
            retry_after=retry_after,
            metadata=metadata,
        )
        self.path = path
        self.errno = errno
        self.answered = answered
        self.sent = sent

    @property
    def errno_name(self) -> str:
        """As in "ENOENT"; empty without an errno."""
        return _errno.errorcode.get(self.errno, "") if self.errno is not None else ""


class UntrustedServer(KeyServerError):
    """Somebody listens on the socket who must not: nothing was sent. Tell the operator.

    `path` is the socket's, `uid` the user who listens there or owns its file.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNAUTHENTICATED",
        reason: str = "",
        hint: str = "",
        retry_after: Optional[float] = None,
        metadata: Optional[Mapping[str, str]] = None,
        path: str = "",
        uid: Optional[int] = None,
    ) -> None:
        super().__init__(
            message,
            code=code,
            reason=reason,
            hint=hint,
            retry_after=retry_after,
            metadata=metadata,
        )
        self.path = path
        self.uid = uid


class TimedOut(KeyServerError):
    """No answer came within the deadline; whether the call was carried out is not known."""


class PermissionDenied(KeyServerError):
    """This uid may not do that: ask the operator."""


class Unidentified(PermissionDenied):
    """The server could not tell who is calling: ask the operator."""


class InvalidRequest(KeyServerError, ValueError):
    """The request is malformed: fix it. Also raised here, before anything is sent."""


class NotFound(KeyServerError):
    """What the request names does not exist, or belongs to somebody else."""


class SessionNotFound(NotFound):
    """The session does not exist, or belongs to another uid."""


class KeyNotFound(NotFound):
    """The key does not exist, or the session never held it for this model."""


class Exhausted(KeyServerError):
    """A cap or quota is reached: wait `retry_after` seconds, where known."""


class Unfit(KeyServerError):
    """The state of things does not allow it: change that first."""


class SessionExpired(Unfit):
    """The session has ended: open another."""


class Conflict(KeyServerError):
    """The event id came before with another content, or the session is another user's."""


class Corrupt(KeyServerError):
    """A stored record failed its check: tell the operator."""


class InternalError(KeyServerError):
    """A fault in the server: report it, with the error id in `metadata`."""


class NoKeysAvailable(KeyServerError):
    """A model has no usable key now; nothing was allocated.

    `shortages` says for each such model why. `retry_after` is when, in seconds, all of
    them are expected to have one again; None when that is not known for one of them.
    """

    shortages: tuple[Shortage, ...] = ()

    @property
    def reasons(self) -> dict[str, ShortageReason]:
        """For each refused model, why."""
        return {shortage.model: shortage.reason for shortage in self.shortages}


class UnknownModel(KeyServerError):
    """No key serves a model of this name; nothing was allocated.

    `shortages` has one entry for each model that was refused, unknown or not.
    """

    shortages: tuple[Shortage, ...] = ()
    models: tuple[str, ...] = ()
    """The unknown names, as they were asked for."""
    did_you_mean: tuple[str, ...] = ()
    """The nearest known names, the best first; by model in `shortages`."""


class ReloadRefused(KeyServerError):
    """The keys file was not taken and nothing changed; see `problems`."""

    report: Optional[ReloadReport] = None

    @property
    def problems(self) -> Sequence[RowProblem]:
        """Every bad row, with its line and column."""
        return self.report.problems if self.report else ()
