"""The protobuf messages, loaded when a name is first used.

Written by `generate.sh`; nothing outside this package may show them to users.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from key_server._requirements import load

if TYPE_CHECKING:
    from . import key_server_pb2 as key_server_pb2
    from . import status_details_pb2 as status_details_pb2


def __getattr__(name: str) -> ModuleType:
    if name not in ("key_server_pb2", "status_details_pb2"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(f"{__name__}.{name}")
