"""Which program `python -m key_server` becomes, and what the tree's import path finds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "clients" / "python" / "src"


def run(
    *arguments: str, folder: Path, environment: Optional[dict[str, str]] = None
) -> subprocess.CompletedProcess[str]:
    """Runs this Python without what the tests themselves were told."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KEY_SERVER_BIN", "PYTHONPATH", "CARGO_TARGET_DIR")
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(folder: Path) -> Path:
    """A copy of what the starter needs of a source tree, with a cargo that writes a program."""
    shutil.copytree(ROOT / "server" / "key_server", folder / "server" / "key_server")
    package = folder / "clients" / "python" / "src" / "key_server"
    package.mkdir(parents=True)
    shutil.copy(SOURCE / "key_server" / "_binary.py", package)
    (folder / "Cargo.toml").write_text("")
    script(
        folder / "bin" / "cargo",
        'echo "cargo $* in $PWD" >&2\n'
        'program="${CARGO_TARGET_DIR:-target}/release/key-server"\n'
        'mkdir -p "$(dirname "$program")"\n'
        "printf '#!/bin/sh\\necho built $*\\n' > \"$program\"\n"
        'chmod +x "$program"',
    )
    return folder


def path_with(folder: Path) -> dict[str, str]:
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_the_package_becomes_the_named_program_with_the_arguments(folder: Path) -> None:
    named = script(folder / "named", 'echo "$$ $*"')
    environment = {"PYTHONPATH": str(SOURCE), "KEY_SERVER_BIN": str(named)}
    for arguments, seen in [((), "serve"), (("status", "--json"), "status --json")]:
        done = run("-m", "key_server", *arguments, folder=folder, environment=environment)
        assert done.stdout.split(" ", 1)[1] == f"{seen}\n", done.stderr


def test_the_process_itself_becomes_the_program(folder: Path) -> None:
    named = script(folder / "named", "echo $$")
    environment = {"PYTHONPATH": str(SOURCE), "KEY_SERVER_BIN": str(named)}
    with subprocess.Popen(
        [sys.executable, "-m", "key_server"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid


def test_a_wrongly_named_program_is_told_and_not_passed_over(folder: Path) -> None:
    script(folder / "bin" / "key-server", "echo on path")
    environment = {
        "PYTHONPATH": str(SOURCE),
        "KEY_SERVER_BIN": "/none/key-server",
        **path_with(folder / "bin"),
    }
    done = run("-m", "key_server", folder=folder, environment=environment)
    assert done.returncode == 2
    assert done.stderr == ("error: KEY_SERVER_BIN is /none/key-server, which is not a program\n")


def test_the_program_on_path_is_the_last_resort(folder: Path) -> None:
    script(folder / "bin" / "key-server", 'echo "on path $*"')
    environment = {"PYTHONPATH": str(SOURCE), **path_with(folder / "bin")}
    done = run("-m", "key_server", folder=folder, environment=environment)
    assert done.stdout == "on path serve\n", done.stderr


def test_a_missing_program_names_every_place(folder: Path) -> None:
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    done = run("-m", "key_server", folder=folder, environment=environment)
    assert done.returncode == 2
    assert "the program key-server was not found; searched:" in done.stderr
    assert "  KEY_SERVER_BIN (not set)" in done.stderr
    assert f"  {Path(sys.executable).parent}/key-server" in done.stderr
    assert "  PATH (/usr/bin:/bin)" in done.stderr
    assert "hint: set KEY_SERVER_BIN to its path" in done.stderr


def test_the_starter_builds_what_is_not_built_says_so_and_starts_it(tree: Path) -> None:
    environment = path_with(tree / "bin")
    done = run("-S", "-m", "key_server", folder=tree / "server", environment=environment)
    assert done.stdout == "built serve\n", done.stderr
    assert "key-server is not built yet; running: cargo build" in done.stderr
    asked = f"cargo build --release --locked -p key-server in {tree.resolve()}\n"
    assert asked in done.stderr
    again = run("-m", "key_server", "status", folder=tree / "server", environment=environment)
    assert (again.stdout, again.stderr) == ("built status\n", "")


def test_the_starter_takes_the_newest_build(tree: Path) -> None:
    target = tree / "elsewhere"
    release = script(target / "release" / "key-server", "echo release")
    debug = script(target / "debug" / "key-server", "echo debug")
    environment = {**path_with(tree / "bin"), "CARGO_TARGET_DIR": str(target)}
    for newer, older in [(release, debug), (debug, release)]:
        os.utime(older, (1, 1))
        os.utime(newer, (2, 2))
        done = run("-m", "key_server", folder=tree / "server", environment=environment)
        assert done.stdout == f"{newer.parent.name}\n", done.stderr


def test_the_starter_takes_the_named_program_first(tree: Path) -> None:
    named = script(tree / "named", "echo named")
    environment = {**path_with(tree / "bin"), "KEY_SERVER_BIN": str(named)}
    done = run("-m", "key_server", folder=tree / "server", environment=environment)
    assert done.stdout == "named\n", done.stderr


def test_a_failed_build_is_not_hidden_by_another_program(tree: Path) -> None:
    script(tree / "bin" / "cargo", "echo broken >&2; exit 101")
    script(tree / "bin" / "key-server", "echo on path")
    done = run("-m", "key_server", folder=tree / "server", environment=path_with(tree / "bin"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("broken\nerror: the build failed; see above\n")


def test_without_cargo_the_starter_takes_the_program_on_path_or_names_the_places(
    tree: Path,
) -> None:
    (tree / "bin" / "cargo").unlink()
    environment = path_with(tree / "bin")
    done = run("-m", "key_server", folder=tree / "server", environment=environment)
    assert done.returncode == 2
    assert f"  {tree.resolve()}/target/release/key-server" in done.stderr
    script(tree / "bin" / "key-server", "echo on path")
    done = run("-m", "key_server", folder=tree / "server", environment=environment)
    assert done.stdout == "on path\n", done.stderr


IMPORT = (
    "from backend.shared.clients.key_client import KeyClient, Unavailable\n"
    "import key_server\n"
    "print(KeyClient is key_server.KeyClient, key_server.__file__)\n"
)


@pytest.mark.parametrize("path", ["", "server", "server:clients/python/src"])
def test_the_import_path_of_existing_applications_finds_the_client(path: str) -> None:
    folders = os.pathsep.join(str(ROOT / folder) for folder in path.split(":") if folder)
    done = run("-c", IMPORT, folder=ROOT, environment={"PYTHONPATH": folders})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True ")
    assert "/server/key_server/" not in done.stdout


def test_the_import_path_finds_the_client_even_after_the_starter_was_imported() -> None:
    before = "import sys; sys.path.insert(0, 'server'); import key_server\n"
    done = run("-c", before + IMPORT, folder=ROOT)
    assert done.stdout.startswith("True "), done.stderr
    assert "/server/key_server/" not in done.stdout


def test_the_starter_taken_for_the_client_says_where_the_client_is() -> None:
    done = run("-c", "from key_server import KeyClient", folder=ROOT / "server")
    assert "the client of the same name is in clients/python" in done.stderr
