"""Who may be at the other end: a server of somebody else gets nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeClient
from scripted_server import ScriptedServer

from key_server import InvalidRequest, KeyServer, Unavailable, UntrustedServer
from key_server._peer import trusted_uids

NOBODY = 65_534
ROUNDS = 100

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as another user")

# Accepts, and writes what it is sent to the file; takes over the path when there is a socket.
SQUATTER = """
import os, socket, sys
path, heard, user = sys.argv[1:]
# Not by the parent: who may not read this Python could not begin.
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
heard = open(heard, "ab", buffering=0)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o777)
listener.listen(64)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.settimeout(0.05)
    try:
        heard.write(connection.recv(65536))
    except OSError:
        pass
    connection.close()
"""


class Squatter:
    """A process of another user that listens where the server should."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o777)
        self.path = folder / "ks.sock"
        self.heard = folder / "heard"
        self.heard.touch(0o666)
        self.heard.chmod(0o666)
        self._process: Any = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SQUATTER, str(self.path), str(self.heard), str(NOBODY)],
            stdout=subprocess.PIPE,
            env={},
        )
        assert self._process.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@pytest.fixture
def squatter(folder: Path) -> Iterator[Squatter]:
    squatter = Squatter(folder)
    yield squatter
    squatter.stop()


@as_root
def test_a_squatter_gets_nothing(squatter: Squatter, make_client: MakeClient) -> None:
    squatter.start()
    client = make_client(squatter.path)
    for _ in range(ROUNDS):
        with pytest.raises(UntrustedServer) as caught:
            client.select_keys_for_session("secret-session", 1, ["openai/gpt-4o"])
    assert (caught.value.uid, caught.value.path) == (NOBODY, str(squatter.path))
    assert caught.value.reason == "SERVER_NOT_TRUSTED"
    assert "KEY_SERVER_TRUSTED_USERS" in caught.value.hint
    # What it would have read last is there by now.
    time.sleep(0.2)
    assert squatter.heard.read_bytes() == b""


@as_root
def test_a_squatter_who_is_trusted_is_talked_to(
    squatter: Squatter, make_client: MakeClient
) -> None:
    """So the silence above is the check's doing."""
    squatter.start()
    client = make_client(squatter.path, trusted_users=["0", NOBODY])
    with pytest.raises(Unavailable):
        client.health_check()
    assert squatter.heard.read_bytes().startswith(b"PRI * HTTP/2.0")


@as_root
def test_who_takes_the_place_of_a_server_gets_nothing(
    squatter: Squatter, make_client: MakeClient
) -> None:
    client = make_client(squatter.path)
    with ScriptedServer(squatter.path):
        assert client.health_check().ok
    squatter.path.unlink(missing_ok=True)
    squatter.start()
    for _ in range(ROUNDS):
        with pytest.raises(UntrustedServer):
            client.release_key("secret-session")
    time.sleep(0.2)
    assert squatter.heard.read_bytes() == b""
    squatter.stop()
    squatter.path.unlink()
    with ScriptedServer(squatter.path):
        assert client.health_check().ok


@as_root
def test_the_file_must_belong_to_a_trusted_user_too(
    server: ScriptedServer, make_client: MakeClient
) -> None:
    client = make_client(server.path)
    assert client.health_check().ok
    os.chown(server.path, NOBODY, NOBODY)
    with pytest.raises(UntrustedServer, match="owns that file"):
        client.health_check()
    os.chown(server.path, 0, 0)
    link = Path(server.path).with_name("link")
    link.symlink_to(server.path)
    assert make_client(link).health_check().ok
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(UntrustedServer, match="owns that file"):
        make_client(link).health_check()


def test_a_restarted_server_is_checked_and_used(
    folder: Path, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from key_server import _peer

    checks = []
    verify = _peer.verify

    def counting(*arguments: Any) -> Any:
        checks.append(arguments)
        return verify(*arguments)

    monkeypatch.setattr(_peer, "verify", counting)
    client = make_client(folder / "ks.sock")
    for restarts in (1, 2, 3):
        with ScriptedServer(folder / "ks.sock"):
            for _ in range(3):
                assert client.health_check().ok
        assert len(checks) == restarts


def test_who_is_trusted_can_be_said(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer
) -> None:
    assert trusted_uids() == {os.geteuid(), 0}
    assert trusted_uids([7, "8", "root"]) == {7, 8, 0}
    assert trusted_uids("9") == {9}
    monkeypatch.setenv("KEY_SERVER_TRUSTED_USERS", "5, root")
    assert trusted_uids() == {5, 0}
    assert trusted_uids([6]) == {6}
    monkeypatch.setenv("KEY_SERVER_TRUSTED_USERS", "4711")
    with KeyServer(server.path) as client, pytest.raises(UntrustedServer, match="4711"):
        client.health_check()
    monkeypatch.setenv("KEY_SERVER_TRUSTED_USERS", "")
    with KeyServer(server.path) as client:
        assert client.health_check().ok
    with pytest.raises(InvalidRequest, match="no user 'no-such-user'"):
        KeyServer(server.path, trusted_users=["no-such-user"])
    with pytest.raises(InvalidRequest, match="is empty"):
        KeyServer(server.path, trusted_users=[])


def test_an_abandoned_socket_is_unavailable_not_untrusted(
    folder: Path, make_client: MakeClient
) -> None:
    path = folder / "ks.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(Unavailable) as caught:
        make_client(path).health_check()
    assert caught.value.errno_name == "ECONNREFUSED"
    assert caught.value.sent is False
