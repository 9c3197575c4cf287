"""A period of use as a context manager: keys at its start, given back at its end."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional, Union

from ._errors import KeyServerError, NotFound, Unfit
from ._key import Key, SelectedKeys
from ._names import Outcome

if TYPE_CHECKING:
    from ._answers import TrackedUsage
    from ._async_client import AsyncKeyServer
    from ._calls import Seconds
    from ._client import KeyServer

logger = logging.getLogger("key_server")


class _Held:
    """What both kinds of session are: an id, and the keys while it is open."""

    def __init__(
        self,
        user_id: int,
        models: Iterable[str],
        count_per_model: int,
        session_id: Optional[str],
    ) -> None:
        self.session_id = session_id or f"s_{uuid.uuid4().hex}"
        self.user_id = user_id
        self.models = models if isinstance(models, str) else list(models)
        self.count_per_model = count_per_model
        self._keys: Optional[SelectedKeys] = None

    @property
    def keys(self) -> SelectedKeys:
        """The session's keys. Errors: `RuntimeError` before its start and after its end."""
        if self._keys is None:
            raise RuntimeError("the session is not open: use it in a `with` statement")
        return self._keys

    def key(self, model: str) -> Key:
        """Gives the first key for "provider/model". Errors: `KeyError` when it has none."""
        for key in self.keys.for_model(model):
            return key
        raise KeyError(model)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r}, keys={self._keys!r})"

    def _usage(self, key: Key, **fields: Any) -> dict[str, Any]:
        """Names the use of a key as `track_usage` of the client wants it."""
        return {
            "session_id": self.session_id,
            "key_id": key.key_id,
            "model": key.provider_model,
            **fields,
        }

    def _note(self, failure: BaseException) -> None:
        """Logs that a session was not released; one that has ended before needs no word."""
        if not isinstance(failure, (NotFound, Unfit)):
            logger.warning(
                "session %s was not released and ends by its own deadline: %s",
                self.session_id,
                failure,
            )


class Session(_Held):
    """A session of `KeyServer.session`. A failed release is logged, not raised."""

    def __init__(
        self,
        client: KeyServer,
        user_id: int,
        models: Iterable[str],
        count_per_model: int,
        session_id: Optional[str],
    ) -> None:
        super().__init__(user_id, models, count_per_model, session_id)
        self._client = client

    def track_usage(
        self,
        key: Key,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_input_tokens: int = 0,
        outcome: Union[Outcome, str] = Outcome.SUCCESS,
        event_id: Optional[str] = None,
        occurred_at: Optional[datetime] = None,
        retry_after: Optional[Seconds] = None,
    ) -> TrackedUsage:
        """Reports what one use of a key of this session spent; see the client's."""
        return self._client.track_usage(
            **self._usage(
                key,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=cached_input_tokens,
                outcome=outcome,
                event_id=event_id,
                occurred_at=occurred_at,
                retry_after=retry_after,
            )
        )

    def __enter__(self) -> Session:
        self._keys = self._client.select_keys_for_session(
            self.session_id, self.user_id, self.models, self.count_per_model
        )
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._keys = None
        try:
            self._client.release_key(self.session_id)
        except KeyServerError as failure:
            self._note(failure)


class AsyncSession(_Held):
    """A session of `AsyncKeyServer.session`. A failed release is logged, not raised.

    Cancellation: the release is finished first, and so is a selection under way (and
    then released), each within its deadline; then the cancellation goes on.
    """

    def __init__(
        self,
        client: AsyncKeyServer,
        user_id: int,
        models: Iterable[str],
        count_per_model: int,
        session_id: Optional[str],
    ) -> None:
        super().__init__(user_id, models, count_per_model, session_id)
        self._client = client

    async def track_usage(
        self,
        key: Key,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_input_tokens: int = 0,
        outcome: Union[Outcome, str] = Outcome.SUCCESS,
        event_id: Optional[str] = None,
        occurred_at: Optional[datetime] = None,
        retry_after: Optional[Seconds] = None,
    ) -> TrackedUsage:
        """Reports what one use of a key of this session spent; see the client's."""
        return await self._client.track_usage(
            **self._usage(
                key,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=cached_input_tokens,
                outcome=outcome,
                event_id=event_id,
                occurred_at=occurred_at,
                retry_after=retry_after,
            )
        )

    async def __aenter__(self) -> AsyncSession:
        selection = asyncio.ensure_future(
            self._client.select_keys_for_session(
                self.session_id, self.user_id, self.models, self.count_per_model
            )
        )
        cancelled = await _settled(selection)
        if cancelled is None:
            self._keys = selection.result()
            return self
        if selection.exception() is None:
            await self._release()
        raise cancelled

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._keys = None
        cancelled = await self._release()
        if cancelled is not None:
            raise cancelled

    async def _release(self) -> Optional[asyncio.CancelledError]:
        release = asyncio.ensure_future(self._client.release_key(self.session_id))
        cancelled = await _settled(release)
        failure = release.exception()
        if failure is not None:
            self._note(failure)
        return cancelled


async def _settled(task: asyncio.Future[Any]) -> Optional[asyncio.CancelledError]:
    """Waits until the task is done, whatever is cancelled; gives the last cancellation."""
    cancelled: Optional[asyncio.CancelledError] = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
