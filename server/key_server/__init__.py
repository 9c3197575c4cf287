"""Starts the server from the source tree: `cd server && python -m key_server`.

This is not the client, which has the same name: it is in clients/python, and from the
repository's root `from backend.shared.clients.key_client import KeyClient` finds it.
"""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(
        f"cannot import {name!r} from server/key_server, which only starts the server; "
        "the client of the same name is in clients/python: run this from another folder "
        "with that package installed"
    )
