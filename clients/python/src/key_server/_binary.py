"""Finds the `key-server` program and becomes it.

Standard library only and without imports from this package: the source tree's
`server/key_server` loads this file by its path.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Optional

PROGRAM = "key-server"
PROGRAM_VARIABLE = "KEY_SERVER_BIN"
COMMAND_DEFAULT = "serve"


class ProgramNotFound(Exception):
    """No such program in any of the places; the message lists them."""


def named_in_environment() -> Optional[Path]:
    """Gives the program that KEY_SERVER_BIN names, None when it is not set.

    Errors: `ProgramNotFound` when it names something else; the other places would hide it.
    """
    named = os.environ.get(PROGRAM_VARIABLE)
    if not named:
        return None
    program = Path(named)
    if not is_program(program):
        raise ProgramNotFound(f"{PROGRAM_VARIABLE} is {named}, which is not a program")
    return program


def installed_places() -> list[Path]:
    """Where an installed package puts its programs, for this Python."""
    places = [
        Path(sysconfig.get_path("scripts")),
        Path(sysconfig.get_path("scripts", "posix_user")),
        Path(sys.base_prefix, "bin"),
        *(Path(folder, "bin") for folder in _target_folders()),
    ]
    return [place / PROGRAM for place in dict.fromkeys(places)]


def on_path() -> Optional[Path]:
    """Gives the first one on PATH."""
    found = shutil.which(PROGRAM)
    return Path(found) if found else None


def first_program(places: Sequence[Path]) -> Optional[Path]:
    """Gives the first of the places that is a program."""
    return next((place for place in places if is_program(place)), None)


def is_program(place: Path) -> bool:
    """True for a file that may be executed."""
    return place.is_file() and os.access(place, os.X_OK)


def find() -> Path:
    """Gives KEY_SERVER_BIN, else the installed package's program, else the one on PATH.

    Errors: `ProgramNotFound`.
    """
    places = installed_places()
    found = named_in_environment() or first_program(places) or on_path()
    if found is None:
        raise not_found(places)
    return found


def not_found(places: Sequence[Path]) -> ProgramNotFound:
    """Says where it was looked for, and what to do."""
    lines = [f"the program {PROGRAM} was not found; searched:"]
    lines += [f"  {PROGRAM_VARIABLE} (not set)", *(f"  {place}" for place in places)]
    lines += [f"  PATH ({os.environ.get('PATH', '')})"]
    lines += [f"hint: set {PROGRAM_VARIABLE} to its path"]
    return ProgramNotFound("\n".join(lines))


def become(program: Path, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by the program, so that signals and the process id are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [PROGRAM, *(arguments or [COMMAND_DEFAULT])])


def fail(error: ProgramNotFound) -> NoReturn:
    """Tells the error and ends with 2: usage or configuration."""
    sys.stderr.write(f"error: {error}\n")
    sys.exit(2)


def _target_folders() -> list[Path]:
    """The folder above this package, as after `pip install --target`; never a site folder."""
    folder = Path(__file__).resolve().parent.parent
    known = {*site.getsitepackages(), site.getusersitepackages()}
    return [] if str(folder) in known else [folder]
