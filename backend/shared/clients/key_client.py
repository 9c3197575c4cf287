"""The client under the name that existing applications import.

    from backend.shared.clients.key_client import KeyClient

It is the installed package `key_server`, else the one in this source tree. The folder
server/key_server, which only starts the server, is never taken for it.
"""

import importlib.util
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3] / "clients" / "python" / "src"
MARKER = "py.typed"  # the client has it, the starter does not


def find_client() -> None:
    """Makes `import key_server` mean the client."""
    loaded = sys.modules.get("key_server")
    if loaded is not None and _is_client(getattr(loaded, "__file__", None)):
        return
    if loaded is not None:
        del sys.modules["key_server"]
    spec = importlib.util.find_spec("key_server")
    if not _is_client(spec.origin if spec else None):
        sys.path.insert(0, str(SOURCE))


def _is_client(origin: "str | None") -> bool:
    return origin is not None and Path(origin).with_name(MARKER).is_file()


find_client()

from key_server import (  # noqa: E402 - after it was made findable
    AsyncKeyServer,
    AsyncSession,
    Conflict,
    Corrupt,
    Exhausted,
    InternalError,
    InvalidRequest,
    Key,
    KeyClient,
    KeyNotFound,
    KeyServer,
    KeyServerError,
    NoKeysAvailable,
    NotFound,
    Outcome,
    PermissionDenied,
    ReloadRefused,
    SelectedKeys,
    Session,
    SessionExpired,
    SessionNotFound,
    TimedOut,
    Unavailable,
    Unfit,
    Unidentified,
    UnknownModel,
)

__all__ = [
    "AsyncKeyServer",
    "AsyncSession",
    "Conflict",
    "Corrupt",
    "Exhausted",
    "InternalError",
    "InvalidRequest",
    "Key",
    "KeyClient",
    "KeyNotFound",
    "KeyServer",
    "KeyServerError",
    "NoKeysAvailable",
    "NotFound",
    "Outcome",
    "PermissionDenied",
    "ReloadRefused",
    "SelectedKeys",
    "Session",
    "SessionExpired",
    "SessionNotFound",
    "TimedOut",
    "Unavailable",
    "Unfit",
    "Unidentified",
    "UnknownModel",
]
