"""A session gives its keys back, however it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import grpc
import pytest
from scripted_server import ScriptedServer, refuse, selection

from key_server import AsyncKeyServer, Key, KeyServer, NoKeysAvailable, Outcome
from key_server._wire import key_server_pb2 as pb

MODELS = ["openai/gpt-4o", "anthropic/claude"]


def released(server: ScriptedServer) -> list[str]:
    return [request.session_id for request in server.requests("ReleaseKey")]


def test_a_session_selects_at_its_start_and_releases_at_its_end(server: ScriptedServer) -> None:
    with KeyServer(server.path) as client:
        with client.session(user_id=456, models=MODELS, count_per_model=2) as session:
            assert len(session.keys) == 4
            assert session.key("OpenAI/gpt-4o").key_id == "k_gpt-4o_0"
            assert released(server) == []
        (request,) = server.requests("SelectKeysForSession")
        assert (request.user_id, request.count_per_model) == (456, 2)
        assert released(server) == [request.session_id] == [session.session_id]


def test_an_async_session_selects_at_its_start_and_releases_at_its_end(
    server: ScriptedServer,
) -> None:
    async def use() -> None:
        async with AsyncKeyServer(server.path) as client:
            async with client.session(user_id=1, models=MODELS, session_id="mine") as session:
                key: Key = session.key("openai/gpt-4o")
                tracked = await session.track_usage(
                    key, input_tokens=5, outcome=Outcome.RATE_LIMITED, retry_after=2
                )
                assert tracked.event_id
            assert released(server) == ["mine"]

    asyncio.run(use())
    (request,) = server.requests("TrackUsage")
    assert (request.session_id, request.key_id) == ("mine", "k_gpt-4o_0")
    assert (request.model, request.input_tokens) == ("openai/gpt-4o", 5)


def test_usage_is_reported_by_key(server: ScriptedServer) -> None:
    client = KeyServer(server.path)
    with client.session(user_id=1, models=MODELS, session_id="mine") as session:
        session.track_usage(session.key("anthropic/claude"), output_tokens=7)
    (request,) = server.requests("TrackUsage")
    assert (request.model, request.output_tokens) == ("anthropic/claude", 7)


def test_two_sessions_have_different_ids(server: ScriptedServer) -> None:
    client = KeyServer(server.path)
    ids = {client.session(user_id=1, models=MODELS).session_id for _ in range(10)}
    assert len(ids) == 10


def test_keys_are_there_only_while_the_session_is_open(server: ScriptedServer) -> None:
    session = KeyServer(server.path).session(user_id=1, models=MODELS)
    with pytest.raises(RuntimeError, match="not open"):
        _ = session.keys
    with session, pytest.raises(KeyError):
        session.key("openai/other")
    with pytest.raises(RuntimeError, match="not open"):
        _ = session.keys


def test_an_exception_in_the_body_goes_on_after_the_release(server: ScriptedServer) -> None:
    client = KeyServer(server.path)
    session = client.session(user_id=1, models=MODELS, session_id="mine")
    with pytest.raises(ZeroDivisionError), session:
        _ = 1 / 0
    assert released(server) == ["mine"]


def test_an_exception_in_an_async_body_goes_on_after_the_release(server: ScriptedServer) -> None:
    async def use() -> None:
        client = AsyncKeyServer(server.path)
        async with client.session(user_id=1, models=MODELS, session_id="mine"):
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        asyncio.run(use())
    assert released(server) == ["mine"]


def test_a_refused_selection_opens_nothing_and_releases_nothing(server: ScriptedServer) -> None:
    server.on("SelectKeysForSession", lambda *_: pb.SelectKeysResponse(success=False))

    async def use() -> None:
        async with AsyncKeyServer(server.path).session(user_id=1, models=MODELS):
            raise AssertionError("not reached")

    with pytest.raises(NoKeysAvailable):
        asyncio.run(use())
    with pytest.raises(NoKeysAvailable):
        KeyServer(server.path).session(user_id=1, models=MODELS).__enter__()
    assert released(server) == []


@pytest.mark.parametrize(
    ("code", "reason", "logged"),
    [
        (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNWRITABLE", 1),
        (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", 0),
        (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", 0),
    ],
)
def test_a_failed_release_is_logged_unless_the_session_had_ended(
    server: ScriptedServer,
    caplog: pytest.LogCaptureFixture,
    code: grpc.StatusCode,
    reason: str,
    logged: int,
) -> None:
    server.on("ReleaseKey", refuse(code, "what happened", reason))

    async def use() -> None:
        async with AsyncKeyServer(server.path).session(user_id=1, models=MODELS):
            pass

    with caplog.at_level(logging.DEBUG, logger="key_server"):
        asyncio.run(use())
        with KeyServer(server.path).session(user_id=1, models=MODELS):
            pass
    assert len(caplog.records) == 2 * logged
    assert "sk-fake" not in caplog.text


async def cancelled_while(server: ScriptedServer, body: Any, times: int = 1) -> None:
    """Opens a session in a task, waits for `body` to be there, cancels the task."""
    inside = asyncio.Event()

    async def use() -> None:
        client = AsyncKeyServer(server.path)
        async with client.session(user_id=1, models=MODELS, session_id="mine"):
            inside.set()
            await body()

    task = asyncio.ensure_future(use())
    await inside.wait()
    for _ in range(times):
        await asyncio.sleep(0.05)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancellation_in_the_body_releases(server: ScriptedServer) -> None:
    asyncio.run(cancelled_while(server, lambda: asyncio.sleep(60)))
    assert released(server) == ["mine"]


def test_cancellation_again_and_again_during_the_release_still_releases(
    server: ScriptedServer,
) -> None:
    done = threading.Event()

    def slow(*_: Any) -> Any:
        time.sleep(0.4)
        done.set()
        return pb.ReleaseKeyResponse(success=True)

    server.on("ReleaseKey", slow)
    asyncio.run(cancelled_while(server, lambda: asyncio.sleep(60), times=4))
    assert done.is_set()
    assert released(server) == ["mine"]


def test_a_timeout_around_a_session_releases(server: ScriptedServer) -> None:
    async def use() -> None:
        async with AsyncKeyServer(server.path).session(user_id=1, models=MODELS):
            await asyncio.sleep(60)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(use(), timeout=0.1))
    assert len(released(server)) == 1


def test_cancellation_during_the_selection_gives_back_what_was_selected(
    server: ScriptedServer,
) -> None:
    def slow(request: Any, context: Any) -> Any:
        time.sleep(0.3)
        return selection(request, context)

    server.on("SelectKeysForSession", slow)

    async def use() -> None:
        async with AsyncKeyServer(server.path).session(user_id=1, models=MODELS, session_id="mine"):
            raise AssertionError("not reached")

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(use(), timeout=0.1))
    assert released(server) == ["mine"]


def test_a_cancelled_plain_call_is_cancelled_at_once(server: ScriptedServer) -> None:
    server.on("Health", lambda *_: time.sleep(2))
    started = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(AsyncKeyServer(server.path).health_check(), timeout=0.1))
    assert time.monotonic() - started < 1.8


def test_the_repr_of_a_session_shows_keys_masked(server: ScriptedServer) -> None:
    with KeyServer(server.path).session(user_id=1, models=MODELS) as session:
        assert "****" in repr(session)
        assert "sk-fake" not in repr(session)
