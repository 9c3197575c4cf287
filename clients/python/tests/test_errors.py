"""The exception for each status, with its details."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from scripted_server import ScriptedServer, refuse, refuse_with

import key_server
from key_server import (
    Conflict,
    Corrupt,
    Exhausted,
    InternalError,
    InvalidRequest,
    KeyNotFound,
    KeyServerError,
    NoKeysAvailable,
    NotFound,
    PermissionDenied,
    SessionExpired,
    SessionNotFound,
    TimedOut,
    Unavailable,
    Unfit,
    Unidentified,
    UnknownModel,
)

Code = grpc.StatusCode

TABLE = [
    (Code.UNAUTHENTICATED, "PEER_UNKNOWN", Unidentified),
    (Code.PERMISSION_DENIED, "OPERATORS_ONLY", PermissionDenied),
    (Code.INVALID_ARGUMENT, "INVALID_REQUEST", InvalidRequest),
    (Code.OUT_OF_RANGE, "INVALID_REQUEST", InvalidRequest),
    (Code.NOT_FOUND, "SESSION_NOT_FOUND", SessionNotFound),
    (Code.NOT_FOUND, "KEY_NOT_FOUND", KeyNotFound),
    (Code.NOT_FOUND, "KEY_NOT_ALLOCATED", KeyNotFound),
    (Code.NOT_FOUND, "PAGE_NOT_FOUND", NotFound),
    (Code.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS", Exhausted),
    (Code.FAILED_PRECONDITION, "SESSION_EXPIRED", SessionExpired),
    (Code.FAILED_PRECONDITION, "KEY_RETIRED", Unfit),
    (Code.ALREADY_EXISTS, "EVENT_ID_REUSED", Conflict),
    (Code.ALREADY_EXISTS, "SESSION_OF_OTHER_USER", Conflict),
    (Code.UNAVAILABLE, "LEDGER_UNWRITABLE", Unavailable),
    (Code.DATA_LOSS, "STORE_CORRUPT", Corrupt),
    (Code.INTERNAL, "INTERNAL", InternalError),
    (Code.UNIMPLEMENTED, "", KeyServerError),
    (Code.UNKNOWN, "", KeyServerError),
]


@pytest.mark.parametrize(("code", "reason", "kind"), TABLE)
def test_each_status_has_its_exception(
    client: Any,
    server: ScriptedServer,
    code: grpc.StatusCode,
    reason: str,
    kind: type[KeyServerError],
) -> None:
    metadata = {"error_id": "0a1b"}
    server.on("ReleaseKey", refuse(code, "what happened", reason, metadata, retry_after=2.5))

    with pytest.raises(KeyServerError) as caught:
        client.release_key("s")

    assert type(caught.value) is kind
    assert caught.value.message == "what happened"
    assert (caught.value.code, caught.value.reason) == (code.name, reason)
    assert caught.value.metadata == metadata
    assert caught.value.retry_after == 2.5
    assert len(server.seen) == 1  # the server has answered: nothing is repeated


def test_details_are_read_as_googles_own_library_writes_them(
    client: Any, server: ScriptedServer
) -> None:
    written = (  # by googleapis-common-protos: DebugInfo, ErrorInfo and RetryInfo
        b"\x08\x08\x12\x08too many\x1a/\n(type.googleapis.com/google.rpc.DebugInfo\x12\x03\x12"
        b"\x01x\x1aZ\n(type.googleapis.com/google.rpc.ErrorInfo\x12.\n\x11TOO_MANY_SESSIONS\x12"
        b"\x0ckeyserver.v1\x1a\x0b\n\x05limit\x12\x0210\x1a6\n(type.googleapis.com/google.rpc."
        b"RetryInfo\x12\n\n\x08\x08\x02\x10\x80\xca\xb5\xee\x01"
    )
    server.on("Health", refuse_with(Code.RESOURCE_EXHAUSTED, "too many", written))
    with pytest.raises(Exhausted) as caught:
        client.health_check()
    assert caught.value.reason == "TOO_MANY_SESSIONS"
    assert caught.value.metadata == {"limit": "10"}
    assert caught.value.retry_after == 2.5


@pytest.mark.parametrize("details", [None, b"", b"\xff\xff\xff not a message"])
def test_a_status_without_readable_details_is_still_its_exception(
    client: Any, server: ScriptedServer, details: bytes
) -> None:
    server.on("Health", refuse_with(Code.PERMISSION_DENIED, "no", details))
    with pytest.raises(PermissionDenied) as caught:
        client.health_check()
    assert (caught.value.reason, caught.value.retry_after) == ("", None)


def test_an_older_server_is_told_from_a_broken_one(client: Any, server: ScriptedServer) -> None:
    server.on("GetStats", refuse_with(Code.UNIMPLEMENTED, "", None))
    with pytest.raises(KeyServerError, match="the server is older than this client"):
        client.get_stats()


def test_the_error_of_grpc_is_the_cause(client: Any, server: ScriptedServer) -> None:
    server.on("Health", refuse(Code.INTERNAL, "internal error 0a1b"))
    with pytest.raises(InternalError) as caught:
        client.health_check()
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_every_exception_can_be_pickled() -> None:
    kinds = [
        kind
        for name in key_server.__all__
        if isinstance(kind := getattr(key_server, name), type) and issubclass(kind, KeyServerError)
    ]
    assert {NoKeysAvailable, UnknownModel, TimedOut, Unavailable} <= set(kinds)
    for kind in kinds:
        error = kind("what", code="NOT_FOUND", reason="R", hint="do this", retry_after=1.0)
        same = pickle.loads(pickle.dumps(error))
        assert type(same) is kind
        assert str(same) == "what (do this)"
        assert vars(same) == vars(error)
