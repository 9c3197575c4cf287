"""Fixtures: a short temporary folder, a scripted server in it, and both clients."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from scripted_server import ScriptedServer

from key_server import AsyncKeyServer, KeyServer


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: a socket's has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ks-") as path:
        yield Path(path)


@pytest.fixture
def server(folder: Path) -> Iterator[ScriptedServer]:
    with ScriptedServer(folder / "ks.sock") as running:
        yield running


class InOwnLoops:
    """The asyncio client with each call in an event loop of its own."""

    def __init__(self, client: AsyncKeyServer) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            async def await_it() -> Any:
                answer = method(*arguments, **named)
                if inspect.isasyncgen(answer):
                    return [item async for item in answer]
                return await answer

            return asyncio.run(await_it())

        return call


MakeClient = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Makes clients of one kind, which can all be called without `await`."""
    made = []

    def make(*arguments: Any, **named: Any) -> Any:
        kind = KeyServer if request.param == "threads" else AsyncKeyServer
        client: Any = kind(*arguments, **named)
        made.append(client)
        return client if request.param == "threads" else InOwnLoops(client)

    yield make
    for client in made:
        client._transport.close()


@pytest.fixture
def client(make_client: MakeClient, server: ScriptedServer) -> Any:
    return make_client(server.path)
