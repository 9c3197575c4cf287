"""The connection: made when first used, one for each process.

Both clients use gRPC's blocking calls, the one for asyncio in threads. gRPC's own asyncio
ties a connection to one event loop, and it and its futures take the process down, or
leave it hanging, when a fork follows their use.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Optional

from . import _address, _fork, _peer, _status
from ._requirements import load

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ._attempts import Attempts
    from ._calls import Call

OPTIONS: tuple[tuple[str, Any], ...] = (
    # Without it grpcio sends the socket's path as :authority, which the server refuses.
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    # A page of statistics can be large; the server limits it by rows.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    # A restarted server is found again within moments; a local socket costs nothing to try.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Each client has its own connection and its own backoff.
    ("grpc.use_local_subchannel_pool", 1),
)

ASYNC_CALLS_MAX = 16
"""Calls of one asyncio client under way at once; more wait, within their deadlines."""

_inherited: list[_Line] = []
"""Connections of the parent process: kept, because closing them here could touch it."""


class _Line:
    """One open channel with the threads that wait for it, the process they are of, and the
    socket's file whose server was checked."""

    def __init__(self, path: str, file: _peer.SocketFile) -> None:
        grpc = _grpc()
        self.pid = os.getpid()
        self.file = file
        self.channel = grpc.insecure_channel(_address.target(path), options=OPTIONS)
        self.threads = ThreadPoolExecutor(ASYNC_CALLS_MAX, "key_server")
        self._methods: dict[str, Any] = {}

    def method(self, call: Call[Any]) -> Any:
        """Gives gRPC's callable for the call's method."""
        if call.method not in self._methods:
            self._methods[call.method] = self.channel.unary_unary(
                call.method, request_serializer=_bytes, response_deserializer=call.parse
            )
        return self._methods[call.method]

    def close(self) -> None:
        self.channel.close()
        self.threads.shutdown(wait=False)


class Transport:
    """Sends calls over one socket, from any thread, event loop and forked process."""

    def __init__(self, path: str, trusted_uids: frozenset[int]) -> None:
        self.path = path
        self.trusted_uids = trusted_uids
        self._line: Optional[_Line] = None

    def send(self, call: Call[Any], attempts: Attempts) -> Any:
        """Makes one attempt and gives the reply. Errors: `KeyServerError`."""
        grpc = _grpc()
        try:
            with _fork.gate:
                return self._open().method(call)(
                    call.request,
                    timeout=attempts.seconds_left(),
                    wait_for_ready=attempts.wait_for_ready,
                )
        except grpc.RpcError as error:
            raise _status.failure(error, self.path) from error

    async def send_async(self, call: Call[Any], attempts: Attempts) -> Any:
        """As `send`. Cancellation: is immediate; the server may have carried it out."""
        threads = self._open().threads
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self.send, call, attempts)

    def close(self) -> None:
        """Closes the connection; calls under way fail. The next call opens another."""
        line, self._line = self._line, None
        if line is None:
            return
        if line.pid == os.getpid():
            line.close()
        else:
            _inherited.append(line)

    def _open(self) -> _Line:
        line = self._line
        if line is not None and line.pid != os.getpid():
            _fork.refuse_without_support(self.path)
            _inherited.append(line)
            line = None
        # gRPC connects again by itself, when it likes: so the path must lead to the file
        # that was checked at every call, not only at the first.
        if line is None or line.file != _peer.file_at(self.path):
            file = _peer.verify(self.path, self.trusted_uids)
            # A line to another file is dropped, not closed: calls may be under way there.
            # Two threads may both come here: one of the channels is then dropped unused.
            line = self._line = _Line(self.path, file)
        return line


def _bytes(request: Message) -> bytes:
    return request.SerializeToString()


def _grpc() -> Any:
    """Gives gRPC, loaded when first needed: importing this package stays cheap."""
    return load("grpc")
