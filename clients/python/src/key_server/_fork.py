"""What keeps gRPC working on both sides of a fork.

gRPC's child hangs, whatever its deadlines, when the parent forked while a thread was
waiting inside gRPC. So a fork waits for the calls under way, and calls wait for the fork.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Optional

from ._errors import Unavailable

WAIT_SECONDS = 10.0
"""How long a fork waits for calls under way; longer than the deadline of most."""

SUPPORT_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
"""gRPC's own switch; its documentation has it in doc/fork_support.md."""


class _Gate:
    """Calls pass it together, a fork alone: `with gate:` around what waits in gRPC."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self.broken = False
        """True in a process that was forked in spite of a call under way."""

    def __enter__(self) -> None:
        with self._changed:
            self._calls += 1

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        self._changed.acquire()  # held until after the fork: no call begins meanwhile
        self._changed.wait_for(lambda: self._calls == 0, WAIT_SECONDS)

    def after_fork_in_parent(self) -> None:
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self.broken = self.broken or self._calls > 0
        self._changed = threading.Condition()
        self._calls = 0


gate = _Gate()

os.register_at_fork(
    before=gate.before_fork,
    after_in_parent=gate.after_fork_in_parent,
    after_in_child=gate.after_fork_in_child,
)


def ask_for_support() -> None:
    """Switches gRPC's support on, unless somebody chose; call it before gRPC is loaded."""
    os.environ.setdefault(SUPPORT_VARIABLE, "1")


def refuse_without_support(path: str) -> None:
    """Errors: `Unavailable` in a forked process in which gRPC would hang."""
    if gate.broken:
        raise _refused(
            path,
            f"this process was forked during a call of more than {WAIT_SECONDS:.0f} s",
            "fork before the first call, or between calls",
        )
    if os.environ.get(SUPPORT_VARIABLE, "").lower() in ("0", "false", "no"):
        raise _refused(
            path,
            f"this process was forked after gRPC had been used with {SUPPORT_VARIABLE}=0",
            f"unset {SUPPORT_VARIABLE}, or make the first call after the fork",
        )


def _refused(path: str, message: str, hint: str) -> Unavailable:
    return Unavailable(
        message,
        reason="FORKED_WITHOUT_SUPPORT",
        hint=hint,
        path=path,
        answered=False,
        sent=False,
    )
