"""`cd server && python -m key_server`: starts the server from the source tree.

Becomes the first of: KEY_SERVER_BIN, the installed package's program, the workspace's
newest build (made first when there is none and cargo is here), the one on PATH. With
the given arguments, or `serve`. Needs no package but Python's own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
FINDER = ROOT / "clients" / "python" / "src" / "key_server" / "_binary.py"
BUILD = ("cargo", "build", "--release", "--locked", "-p", "key-server")


def main() -> None:
    """Finds or builds the program and becomes it."""
    binary = finder()
    try:
        program = find(binary)
    except binary.ProgramNotFound as error:
        binary.fail(error)
    binary.become(program, sys.argv[1:])


def find(binary: ModuleType) -> Path:
    """Gives the program. Errors: `ProgramNotFound`; ends with 2 when the build fails."""
    installed, built = binary.installed_places(), built_places()
    program = binary.named_in_environment() or binary.first_program(installed) or newest(built)
    if program is None and can_build():
        build()
        program = newest(built)
    program = program or binary.on_path()
    if program is None:
        raise binary.not_found([*installed, *built])
    return program


def built_places() -> list[Path]:
    """Where cargo puts the program."""
    target = Path(ROOT, os.environ.get("CARGO_TARGET_DIR") or "target")
    return [target / profile / "key-server" for profile in ("release", "debug")]


def newest(places: list[Path]) -> Path | None:
    """Gives the place that was written last, None when there is none."""
    present = [place for place in places if place.is_file() and os.access(place, os.X_OK)]
    return max(present, key=lambda place: place.stat().st_mtime, default=None)


def can_build() -> bool:
    """True in the source tree of a machine with cargo."""
    return (ROOT / "Cargo.toml").is_file() and shutil.which("cargo") is not None


def build() -> None:
    """Builds the program; cargo shows its progress."""
    sys.stderr.write(f"key-server is not built yet; running: {' '.join(BUILD)}\n")
    sys.stderr.flush()
    try:
        done = subprocess.run(BUILD, cwd=ROOT, stdout=sys.stderr, check=False)  # noqa: S603
    except KeyboardInterrupt:
        sys.exit(130)
    if done.returncode != 0:
        sys.stderr.write("error: the build failed; see above\n")
        sys.exit(2)


def finder() -> ModuleType:
    """Loads the file that the installed package finds its program with, by its path."""
    spec = importlib.util.spec_from_file_location("_key_server_binary", FINDER)
    if spec is None or spec.loader is None or not FINDER.is_file():
        sys.exit(f"error: {FINDER} is missing; this only works in a whole source tree")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
