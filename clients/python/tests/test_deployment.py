"""The standard deployment: what the README says about it, on real servers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()
SCRIPT = str(ROOT / "deploy" / "local.sh")


def ended(command: list[str], environment: dict[str, str], **named: Any) -> Any:
    """A command that has run, with what it printed."""
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **named,
    )


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    parts = README.split(f"```{language}\n")[1:]
    return [part.split("```")[0] for part in parts]


def shell_line(start: str) -> str:
    """The one line of the shell blocks that begins so."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    (line,) = [line for line in lines if line.startswith(start)]
    return line


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of somebody who typed `make up`, on ports of its own."""
    binary = os.environ.get("KEY_SERVER_BIN")
    if not binary:
        pytest.skip("KEY_SERVER_BIN does not name the daemon")
    for program in ("redis-server", "redis-cli", "curl"):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}")
    vault = ended([str(ROOT / "testkit/vault-build/build.sh")], dict(os.environ))
    if vault.returncode != 0:
        pytest.skip("there is no vault, and none can be built")
    state = tmp_path_factory.mktemp("up")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "KEY_SERVER_BIN": binary,
        "KEY_SERVER_LOCAL_DIR": str(state),
        "KEY_SERVER_SOCKET": str(state / "ks.sock"),
        "VAULT_ADDR": f"http://localhost:{free_port()}",
        "VAULT_TOKEN": "dev-token",
        "KEY_SERVER_REDIS_URL": f"redis://localhost:{free_port()}/1",
    }
    up = ended([SCRIPT, "up"], environment)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield environment
    finally:
        down = ended([SCRIPT, "down"], environment)
    assert [line.split(":")[0] for line in down.stdout.splitlines()] == [
        "key-server",
        "vault",
        "redis",
    ]


def run(line: str, environment: dict[str, str]) -> str:
    """What a line of the README prints; Redis is on a port of the test's."""
    port = environment["KEY_SERVER_REDIS_URL"].split(":")[2].split("/")[0]
    line = line.replace("redis-cli ", f"redis-cli -p {port} ")
    done = ended(["bash", "-c", line], environment)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_snippet_of_the_readme_runs_unchanged(deployment: dict[str, str]) -> None:
    (snippet,) = [block for block in blocks("python") if "track_usage" in block]
    snippet = snippet.replace("/tmp/keyserver.sock", deployment["KEY_SERVER_SOCKET"])
    show = "print([(key.model, key.key_id) for key in keys])"
    body = textwrap.indent(f"{snippet}\n{show}", "    ")
    program = f"import asyncio\nasync def main():\n{body}\nasyncio.run(main())\n"
    done = ended([sys.executable, "-c", program], deployment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("k_") == 4
    status = ended([deployment["KEY_SERVER_BIN"], "status"], deployment)
    for backend in ("secrets (vault)", "fleet (redis)"):
        (row,) = [row for row in status.stdout.splitlines() if row.startswith(backend)]
        assert row[len(backend) :].split()[0] == "ok", row
    assert "976 tokens in the last hour" in status.stdout


def test_vault_answers_the_line_of_the_readme(deployment: dict[str, str]) -> None:
    health = json.loads(run(shell_line("curl "), deployment))
    assert health["initialized"]
    assert not health["sealed"]


def test_redis_answers_the_lines_of_the_readme(deployment: dict[str, str]) -> None:
    assert run(shell_line("redis-cli -n 1 ping"), deployment) == "PONG\n"
    names = run(shell_line("redis-cli -n 1 keys"), deployment).split()
    assert "keys:pool:openai/gpt-4o" in names
    assert "keys:nodes" in names


def test_keys_lie_in_vault(deployment: dict[str, str]) -> None:
    listing = 'curl -s -H "X-Vault-Token: $VAULT_TOKEN" -X LIST $VAULT_ADDR/v1/'
    entries = run(listing + "secret/metadata/key-server/keys", deployment)
    assert len(json.loads(entries)["data"]["keys"]) == 8
