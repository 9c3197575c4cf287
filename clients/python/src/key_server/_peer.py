"""Who listens on the socket: asked of the kernel before anything is sent.

gRPC makes its own connection and cannot be asked who is at its other end. So a connection
of our own is made first, to the same socket file, and only as long as the path leads to
that very file does gRPC get to use it: nobody else can listen on the file of a socket that
he did not make. What is left is the moment between looking and gRPC's own connecting, in
which somebody who can write to the socket's directory could put his socket there.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple, Optional, Union

from . import _status
from ._errors import InvalidRequest, UntrustedServer

TRUSTED_VARIABLE = "KEY_SERVER_TRUSTED_USERS"
ROOT = 0

User = Union[int, str]

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


class SocketFile(NamedTuple):
    """By what a socket's file is known again; the time, since inodes are used again."""

    device: int
    inode: int
    changed_ns: int


def trusted_uids(given: Optional[Iterable[User]] = None) -> frozenset[int]:
    """Gives who may run the server: the argument, else KEY_SERVER_TRUSTED_USERS, else the
    own user and root.

    Errors: `InvalidRequest` for a name that no user has, or nobody at all.
    """
    if given is None:
        given = os.environ.get(TRUSTED_VARIABLE, "").replace(",", " ").split() or None
    if given is None:
        return frozenset({os.geteuid(), ROOT})
    if isinstance(given, (str, int)):
        given = [given]
    uids = frozenset(_uid(user) for user in given)
    if not uids:
        raise _invalid("trusted_users is empty", "name at least one user")
    return uids


def file_at(path: str) -> Optional[SocketFile]:
    """Gives the file that the path leads to now; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return SocketFile(found.st_dev, found.st_ino, found.st_ctime_ns)


def verify(path: str, trusted: frozenset[int]) -> SocketFile:
    """Makes sure that a trusted user listens there, and gives the file it was asked at.

    Errors: `UntrustedServer`; `Unavailable` when nobody listens.
    """
    before = file_at(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        number = _status.connect(probe, path)
        if number is not None:
            raise _status.unconnected(path, number, sent=False)
        content = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(content)
    _refuse_unless(uid in trusted, path, uid, trusted, "listens there")
    # The link, where it is one, and what it leads to.
    for owner in (os.lstat(path).st_uid, os.stat(path).st_uid):
        _refuse_unless(owner in trusted, path, owner, trusted, "owns that file")
    after = file_at(path)
    if after is None or after != before:
        raise UntrustedServer(
            f"{path} was replaced while the server was being checked",
            reason="SERVER_NOT_TRUSTED",
            hint="try again; if it stays so, somebody plays with the socket",
            path=path,
            uid=uid,
        )
    return after


def _refuse_unless(
    is_trusted: bool, path: str, uid: int, trusted: frozenset[int], what: str
) -> None:
    if is_trusted:
        return
    users = ", ".join(str(one) for one in sorted(trusted))
    raise UntrustedServer(
        f"the server on {path} is not trusted: uid {uid} {what}, trusted are {users}",
        reason="SERVER_NOT_TRUSTED",
        hint="nothing was sent; if that is the user who is to run the server, name him "
        f"with the trusted_users argument or {TRUSTED_VARIABLE}",
        path=path,
        uid=uid,
    )


def _uid(user: User) -> int:
    if isinstance(user, int):
        return user
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise _invalid(f"there is no user {user!r} here", "name a user, or give a uid") from None


def _invalid(what: str, hint: str) -> InvalidRequest:
    return InvalidRequest(what, code="INVALID_ARGUMENT", hint=hint)
