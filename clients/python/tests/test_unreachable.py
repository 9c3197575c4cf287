"""Servers that are missing, dead, slow or go away; what is repeated and what is not."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeClient
from scripted_server import ScriptedServer, refuse

from key_server import TimedOut, Unavailable, _attempts, _status

DYING_SERVER = """
import os, sys
from pathlib import Path
from scripted_server import ScriptedServer
server = ScriptedServer(Path(sys.argv[1]))
for verb in ("ReleaseKey", "ReloadKeys"):
    server.on(verb, lambda *_: os._exit(1))
server.start()
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def dying(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A server in a process that ends when it is asked to release or reload."""
    with subprocess.Popen(
        [sys.executable, "-c", DYING_SERVER, str(folder / "ks.sock")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def start_after(process: subprocess.Popen[str], server: ScriptedServer) -> threading.Thread:
    def wait_and_start() -> None:
        process.wait()
        server.start()

    thread = threading.Thread(target=wait_and_start)
    thread.start()
    return thread


def test_a_missing_socket_fails_at_once_and_says_what_to_do(
    make_client: MakeClient, folder: Path
) -> None:
    client = make_client(folder / "none.sock", timeout=30)
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        client.health_check()
    assert time.monotonic() - started < 2
    assert (caught.value.errno, caught.value.errno_name) == (errno.ENOENT, "ENOENT")
    assert caught.value.path == str(folder / "none.sock")
    assert caught.value.answered is False
    text = str(caught.value)
    assert f"cannot connect to {folder}/none.sock: ENOENT, No such file or directory" in text
    assert "start the server with `key-server serve`" in text
    assert "KEY_SERVER_SOCKET" in text


def test_a_dead_servers_socket_is_refused(make_client: MakeClient, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "ks.sock"))
    with pytest.raises(Unavailable, match="nobody listens there any more") as caught:
        make_client(folder / "ks.sock").health_check()
    assert caught.value.errno_name == "ECONNREFUSED"


def test_a_regular_file_is_no_socket(make_client: MakeClient, folder: Path) -> None:
    (folder / "ks.sock").write_text("")
    with pytest.raises(Unavailable, match="this is not a socket"):
        make_client(folder / "ks.sock").health_check()


def test_a_forbidden_socket_names_the_uid(
    make_client: MakeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_status, "connect", lambda *_: errno.EACCES)  # root may all
    with pytest.raises(Unavailable, match=f"uid {os.getuid()} may not use it") as caught:
        make_client(folder / "ks.sock").health_check()
    assert caught.value.errno_name == "EACCES"


def test_a_slow_answer_ends_with_the_deadline(client: Any, server: ScriptedServer) -> None:
    server.on("Health", lambda *_: time.sleep(2))
    started = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        client.health_check(timeout=0.2)
    assert 0.15 < time.monotonic() - started < 1.9
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert len(server.seen) == 1


def test_a_listener_that_never_speaks_ends_with_the_deadline(
    make_client: MakeClient, folder: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "ks.sock"))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TimedOut):
            make_client(folder / "ks.sock", timeout=0.3).health_check()
        assert time.monotonic() - started < 2


def test_a_listener_that_always_hangs_up_is_told_within_the_deadline(
    make_client: MakeClient, folder: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind(str(folder / "ks.sock"))
        rude.listen()

        def hang_up() -> None:
            while True:
                try:
                    rude.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Unavailable, match="ended before an answer"):
            make_client(folder / "ks.sock", timeout=1).health_check()
        rude.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_refusal_by_the_server_is_not_repeated(client: Any, server: ScriptedServer) -> None:
    import grpc

    code = grpc.StatusCode.UNAVAILABLE
    server.on("Health", refuse(code, "the ledger is full", "LEDGER_UNWRITABLE", retry_after=1))
    with pytest.raises(Unavailable) as caught:
        client.health_check()
    assert caught.value.answered is True
    assert caught.value.errno is None
    assert caught.value.path == server.path
    assert (caught.value.reason, caught.value.retry_after) == ("LEDGER_UNWRITABLE", 1.0)
    assert len(server.seen) == 1


def test_a_call_whose_server_dies_is_repeated_with_the_next_server(
    make_client: MakeClient,
    folder: Path,
    dying: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_attempts, "PAUSES_SECONDS", (0.05, 2.0))  # for a busy machine
    client = make_client(folder / "ks.sock")
    assert client.health_check().ok
    with_next = ScriptedServer(folder / "ks.sock")
    thread = start_after(dying, with_next)
    assert client.release_key("s").released == 2
    thread.join()
    assert len(with_next.requests("ReleaseKey")) == 1
    with_next.stop()


def test_a_reload_whose_server_dies_is_not_repeated(
    make_client: MakeClient, folder: Path, dying: subprocess.Popen[str]
) -> None:
    client = make_client(folder / "ks.sock")
    assert client.health_check().ok
    with_next = ScriptedServer(folder / "ks.sock")
    thread = start_after(dying, with_next)
    with pytest.raises(Unavailable) as caught:
        client.reload_keys()
    thread.join()
    assert caught.value.answered is False
    assert with_next.seen == []
    with_next.stop()


def test_a_restarted_server_is_found_again(client: Any, server: ScriptedServer) -> None:
    assert client.health_check().ok
    server.stop()
    with pytest.raises(Unavailable):
        client.health_check()
    server.start()
    assert client.health_check().ok


def test_a_reload_that_never_left_is_repeated(client: Any, server: ScriptedServer) -> None:
    from key_server._wire import key_server_pb2 as pb

    server.on("ReloadKeys", lambda *_: pb.ReloadKeysResponse(success=True))
    assert client.health_check().ok
    server.stop()
    with pytest.raises(Unavailable):
        client.reload_keys()
    server.start()
    assert client.reload_keys().success
    assert len(server.requests("ReloadKeys")) == 1


def test_a_server_that_starts_after_the_client_is_found(
    make_client: MakeClient, folder: Path
) -> None:
    client = make_client(folder / "ks.sock")
    for _ in range(3):
        with pytest.raises(Unavailable):
            client.health_check()
    with ScriptedServer(folder / "ks.sock"):
        assert client.health_check().ok


def test_a_closed_client_opens_another_connection(client: Any, server: ScriptedServer) -> None:
    assert client.health_check().ok
    client.close()
    assert client.health_check().ok


def test_large_answers_come_through(client: Any, server: ScriptedServer) -> None:
    from key_server._wire import key_server_pb2 as pb

    rows = [pb.KeyStats(key_id=f"k_{n}", label="x" * 100) for n in range(60_000)]
    server.on("GetStats", lambda *_: pb.GetStatsResponse(keys=rows))
    assert len(client.get_stats(page_size=60_000).keys) == 60_000


def test_a_path_with_signs_that_mean_something_in_an_address(
    make_client: MakeClient, folder: Path
) -> None:
    link = folder / "a b%20c?d#é.sock"
    with ScriptedServer(folder / "ks.sock"):
        link.symlink_to(folder / "ks.sock")
        assert make_client(link).health_check().ok


def test_no_proxy_is_used(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    assert client.health_check().ok
