"""Which socket is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from key_server import AsyncKeyServer, InvalidRequest, KeyClient, KeyServer


@pytest.mark.parametrize(
    "given",
    [
        "/run/ks.sock",
        "unix:/run/ks.sock",
        "unix:///run/ks.sock",
        Path("/run/ks.sock"),
        "/run/../run/ks.sock",
    ],
)
def test_a_path_and_both_forms_of_address_mean_the_same(given: str | Path) -> None:
    assert KeyServer(given).socket_path == "/run/ks.sock"


def test_a_relative_path_stays_the_same_socket_after_a_change_of_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for given in ("ks.sock", "unix:ks.sock"):
        client = KeyServer(given)
        monkeypatch.chdir("/")
        assert client.socket_path == str(folder.resolve() / "ks.sock")
        monkeypatch.chdir(folder)


def test_the_argument_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KEY_SERVER_SOCKET", raising=False)
    assert AsyncKeyServer().socket_path == "/tmp/keyserver.sock"
    monkeypatch.setenv("KEY_SERVER_SOCKET", "unix:///run/env.sock")
    assert AsyncKeyServer().socket_path == "/run/env.sock"
    assert KeyClient("/run/arg.sock").socket_path == "/run/arg.sock"
    monkeypatch.setenv("KEY_SERVER_SOCKET", "")
    assert AsyncKeyServer().socket_path == "/tmp/keyserver.sock"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("unix-abstract:ks", "abstract sockets have no permissions"),
        ("unix://run/ks.sock", "three slashes"),
        ("http://localhost:1", "by a Unix socket only"),
        ("/tmp/" + "x" * 103, "at most 107 bytes"),
        ("/tmp/" + "é" * 52, "at most 107 bytes"),
    ],
)
def test_what_is_no_socket_is_refused_with_a_hint(given: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=hint):
        KeyServer(given)


def test_the_longest_path_is_taken() -> None:
    assert len(KeyServer("/tmp/" + "x" * 102).socket_path) == 107
