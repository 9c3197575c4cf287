"""What keeps gRPC working on both sides of a fork.

Parent and child hang in gRPC, whatever the deadlines, when a process forks while a
thread waits for an answer inside it; the child also hangs in a module that another
thread was importing. So a fork waits for the calls under way, each of which has a
deadline, and new calls wait for the fork.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Optional

from ._errors import Unavailable

SUPPORT_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
"""gRPC's own switch; its documentation has it in doc/fork_support.md."""


class _Gate:
    """Calls pass it together, a fork alone: `with gate:` around what gRPC or imports do."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._callers: list[int] = []
        self._forking = False

    def __enter__(self) -> None:
        with self._changed:
            own = threading.get_ident()
            self._changed.wait_for(lambda: not self._forking or own in self._callers)
            self._callers.append(own)

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        with self._changed:
            self._callers.remove(threading.get_ident())
            self._changed.notify_all()

    def before_fork(self) -> None:
        # A signal handler may fork in the midst of this thread's own call.
        own = {threading.get_ident()}
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._forking = True
            self._changed.wait_for(lambda: own.issuperset(self._callers))

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        # Only the forking thread lives on; locks of the others would stay locked.
        self._changed = threading.Condition()
        self._forking = False


gate = _Gate()

os.register_at_fork(
    before=gate.before_fork,
    after_in_parent=gate.after_fork_in_parent,
    after_in_child=gate.after_fork_in_child,
)


def refuse_without_support(path: str) -> None:
    """Errors: `Unavailable` in a forked process in which gRPC would hang."""
    if os.environ.get(SUPPORT_VARIABLE, "").lower() in ("0", "false", "no"):
        raise Unavailable(
            f"this process was forked after gRPC had been used with {SUPPORT_VARIABLE}=0",
            reason="FORKED_WITHOUT_SUPPORT",
            hint=f"unset {SUPPORT_VARIABLE}, or make the first call after the fork",
            path=path,
            answered=False,
        )
