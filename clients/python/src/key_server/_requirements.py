"""The packages this one needs, loaded when first used and missed in words."""

from __future__ import annotations

import importlib
from types import ModuleType

from ._fork import gate


def load(module: str) -> ModuleType:
    """Imports a module. Errors: `ModuleNotFoundError` that says what to install."""
    try:
        with gate:
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in ("grpc", "google"):
            raise ModuleNotFoundError(
                f"{error.msg}: key_server needs grpcio and protobuf; "
                "run `python3 -m pip install grpcio protobuf`",
                name=error.name,
            ) from None
        raise
