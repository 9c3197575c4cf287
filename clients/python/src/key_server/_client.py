"""`KeyServer`: the client for threads. Written by `generate.sh`; edit `_async_client.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Optional, TypeVar, Union

from . import _address, _calls, _peer
from ._answers import Health, Release, ReloadReport, Stats, TrackedUsage
from ._attempts import TIMEOUT_SECONDS, Attempts, timeout_seconds
from ._calls import Call, Seconds
from ._errors import TimedOut, Unavailable
from ._key import SelectedKeys
from ._names import Outcome, StatsView
from ._session import Session
from ._transport import Transport

Answer = TypeVar("Answer")


class KeyServer:
    """A client of the Key Server on this machine, for threads.

    `socket_path` is a path or `unix:` address; absent, KEY_SERVER_SOCKET, else
    /tmp/keyserver.sock. `timeout` is the deadline of each call in seconds, its retries
    included; each method takes its own. Nothing is connected before the first call.

    `trusted_users` are the users, by uid or name, who may run the server; absent,
    KEY_SERVER_TRUSTED_USERS, else the own user and root. Nothing is sent to a server of
    anybody else: calls raise `UntrustedServer`.

    It may be shared by threads, and used on both sides of a fork.

    Errors: every call raises a `KeyServerError`; its subclasses say what to do.
    """

    def __init__(
        self,
        socket_path: Optional[_address.SocketPath] = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        trusted_users: Optional[Iterable[_peer.User]] = None,
    ) -> None:
        self._timeout = timeout_seconds(timeout)
        trusted_uids = _peer.trusted_uids(trusted_users)
        self._transport = Transport(_address.socket_path(socket_path), trusted_uids)

    @property
    def socket_path(self) -> str:
        """The absolute path of the server's socket."""
        return self._transport.path

    def select_keys_for_session(
        self,
        session_id: str,
        user_id: int,
        models: Iterable[str],
        count_per_model: int = 1,
        *,
        timeout: Optional[float] = None,
    ) -> SelectedKeys:
        """Gets `count_per_model` different keys for each "provider/model", all or nothing.

        The session is opened when it is new. Asking again gives what it holds, first.
        Fewer keys than wanted are given when a pool is smaller; see `shortages`.

        Errors: `NoKeysAvailable`, `UnknownModel`.
        """
        call = _calls.select_keys_for_session(session_id, user_id, models, count_per_model)
        return self._run(call, timeout)

    def track_usage(
        self,
        session_id: str,
        key_id: str,
        model: str,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_input_tokens: int = 0,
        outcome: Union[Outcome, str] = Outcome.SUCCESS,
        event_id: Optional[str] = None,
        occurred_at: Optional[datetime] = None,
        retry_after: Optional[Seconds] = None,
        *,
        timeout: Optional[float] = None,
    ) -> TrackedUsage:
        """Reports what one use of a key spent; `input_tokens` includes the cached ones.

        The same `event_id` counts once: give your own when you may have to repeat the
        report after a failure. `retry_after` (seconds) is what the provider said with
        `Outcome.RATE_LIMITED`. `occurred_at` needs a time zone; absent, it is now.

        Errors: `SessionNotFound`, `KeyNotFound`, `Conflict`.
        """
        call = _calls.track_usage(
            session_id,
            key_id,
            model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached_input_tokens,
            outcome=outcome,
            event_id=event_id,
            occurred_at=occurred_at,
            retry_after=retry_after,
        )
        return self._run(call, timeout)

    def get_stats(
        self,
        provider: Optional[str] = None,
        model: Optional[str] = None,
        key_id: Optional[str] = None,
        user_id: Optional[int] = None,
        session_id: Optional[str] = None,
        view: Union[StatsView, str] = StatsView.KEYS,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        *,
        by_node: bool = False,
        timeout: Optional[float] = None,
    ) -> Stats:
        """Reads one page of keys, pools or sessions, and the totals.

        Filters add up; `model` is "provider/model". Without `page_size` the server's
        default holds; `page_token` is the page before's `next_page_token`. `by_node`
        asks for each node's part, too, where several work together.
        """
        call = _calls.get_stats(
            provider=provider,
            model=model,
            key_id=key_id,
            user_id=user_id,
            session_id=session_id,
            view=view,
            page_size=page_size,
            page_token=page_token,
            by_node=by_node,
        )
        return self._run(call, timeout)

    def iterate_stats(
        self,
        provider: Optional[str] = None,
        model: Optional[str] = None,
        key_id: Optional[str] = None,
        user_id: Optional[int] = None,
        session_id: Optional[str] = None,
        view: Union[StatsView, str] = StatsView.KEYS,
        page_size: Optional[int] = None,
        *,
        by_node: bool = False,
        timeout: Optional[float] = None,
    ) -> Iterator[Stats]:
        """Reads all pages, one after the other; `timeout` is for each of them."""
        page_token: Optional[str] = ""
        while page_token is not None:
            page = self.get_stats(
                provider, model, key_id, user_id, session_id, view, page_size, page_token,
                by_node=by_node, timeout=timeout,
            )  # fmt: skip
            yield page
            page_token = page.next_page_token or None

    def reload_keys(
        self,
        path: Optional[str] = None,
        force: bool = False,
        dry_run: bool = False,
        *,
        timeout: Optional[float] = None,
    ) -> ReloadReport:
        """Makes the server read its keys file again, or the one at `path` (the server's).

        `force` accepts a file that withdraws more than half of the keys. A dry run
        changes nothing and reports what a reload would, also when it would be refused.

        Errors: `ReloadRefused` with every bad row.
        """
        return self._run(_calls.reload_keys(path, force, dry_run), timeout)

    def release_key(
        self,
        session_id: str,
        key_id: Optional[str] = None,
        model: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Release:
        """Gives back all keys of a session, which then ends, or one key or model of it.

        Twice is fine. Give at most one of `key_id` and `model`.
        """
        return self._run(_calls.release_key(session_id, key_id, model), timeout)

    def health_check(self, *, timeout: Optional[float] = None) -> Health:
        """Asks how the server is. Errors: `Unavailable` when it cannot be reached."""
        return self._run(_calls.health_check(), timeout)

    def session(
        self,
        *,
        user_id: int,
        models: Iterable[str],
        count_per_model: int = 1,
        session_id: Optional[str] = None,
    ) -> Session:
        """Makes a context manager that selects at its start and releases at its end.

        Without `session_id` a new one is made.
        """
        return Session(self, user_id, models, count_per_model, session_id)

    def close(self) -> None:
        """Closes the connection; calls under way fail. A later call opens another."""
        self._transport.close()

    def __enter__(self) -> KeyServer:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.socket_path!r})"

    def _run(self, call: Call[Answer], timeout: Optional[float]) -> Answer:
        attempts = Attempts(call, timeout_seconds(timeout, self._timeout))
        while True:
            try:
                return call.read(self._transport.send(call, attempts))
            except Unavailable as failure:
                time.sleep(attempts.pause_after(failure))
            except TimedOut as failure:
                raise attempts.after_timeout(failure) from failure.__cause__
