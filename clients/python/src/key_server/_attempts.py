"""When a failed call is made again: the policy, without the waiting."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any, Optional

from ._errors import InvalidRequest, KeyServerError, TimedOut, Unavailable

if TYPE_CHECKING:
    from ._calls import Call

TIMEOUT_SECONDS = 5.0
"""The deadline of a call, its retries included."""

PAUSES_SECONDS = (0.05, 0.2)
"""Before the second and the third attempt; there is no fourth."""

PASSING_ERRNOS = (None, errno.ECONNREFUSED, errno.EAGAIN)
"""Connection errors that a server's restart explains; a missing socket is told at once."""


class Attempts:
    """The attempts at one call, all within one deadline."""

    def __init__(self, call: Call[Any], timeout_seconds: float) -> None:
        self._repeatable = call.repeatable
        self._ends_at = time.monotonic() + timeout_seconds
        self._pauses = list(PAUSES_SECONDS)
        self._first: Optional[Unavailable] = None
        self.wait_for_ready = False
        """True once it is known that somebody listens: then wait for the reconnection."""

    def seconds_left(self) -> float:
        return max(0.0, self._ends_at - time.monotonic())

    def pause_after(self, failure: Unavailable) -> float:
        """Gives the seconds to wait before the next attempt; raises when there is none."""
        may_repeat = self._repeatable or not failure.sent
        if not (may_repeat and self._pauses and _passing(failure)):
            raise failure
        pause = self._pauses.pop(0)
        if pause >= self.seconds_left():
            raise failure
        self._first = self._first or failure
        self.wait_for_ready = failure.errno is None
        return pause

    def after_timeout(self, failure: TimedOut) -> KeyServerError:
        """Gives what to raise: a deadline that passed while reconnecting tells less."""
        return self._first or failure


def timeout_seconds(given: Optional[float], default: float = TIMEOUT_SECONDS) -> float:
    """Gives the deadline to use. Errors: `InvalidRequest` when it is not a positive number."""
    seconds = default if given is None else given
    if not seconds > 0 or seconds == float("inf"):
        raise InvalidRequest(
            f"timeout is {seconds!r}",
            code="INVALID_ARGUMENT",
            hint="give seconds, more than 0; no call is without a deadline",
        )
    return float(seconds)


def _passing(failure: Unavailable) -> bool:
    return not failure.answered and failure.errno in PASSING_ERRNOS
