"""Where the server's socket is."""

from __future__ import annotations

import os
from typing import Optional, Union
from urllib.parse import quote

from ._errors import InvalidRequest

SOCKET_VARIABLE = "KEY_SERVER_SOCKET"
SOCKET_DEFAULT = "/tmp/keyserver.sock"  # noqa: S108 - the documented default
SOCKET_PATH_BYTES_MAX = 107  # what fits into sockaddr_un.sun_path on Linux, with its NUL

SocketPath = Union[str, "os.PathLike[str]"]


def socket_path(given: Optional[SocketPath] = None) -> str:
    """Gives the absolute path: the argument, else KEY_SERVER_SOCKET, else the default.

    A bare path, `unix:path`, `unix:/path` and `unix:///path` mean the same.

    Errors: `InvalidRequest` when it is none of these or too long for a socket.
    """
    text = os.fspath(given) if given is not None else os.environ.get(SOCKET_VARIABLE, "")
    path = os.path.abspath(_without_scheme(text or SOCKET_DEFAULT))
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise InvalidRequest(
            f"the socket path has {size} bytes: {path}",
            code="INVALID_ARGUMENT",
            hint=f"a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes",
        )
    return path


def target(path: str) -> str:
    """Gives what gRPC calls this path; it decodes percent signs, so we encode them."""
    return "unix:" + quote(path)


def _without_scheme(text: str) -> str:
    if text.startswith("unix-abstract:"):
        raise _refused(text, "abstract sockets have no permissions; give the path of a socket file")
    if text.startswith("unix://"):
        path = text[len("unix://") :]
        if not path.startswith("/"):
            raise _refused(text, "write three slashes: unix:///path/to/keyserver.sock")
        return path
    if text.startswith("unix:"):
        return text[len("unix:") :]
    if "://" in text:
        raise _refused(text, "Key Server is reached by a Unix socket only; give its path")
    return text


def _refused(text: str, hint: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text!r} is not the path of a socket", code="INVALID_ARGUMENT", hint=hint
    )
