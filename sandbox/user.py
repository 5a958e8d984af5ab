"""Who memcached runs as."""

from __future__ import annotations

import os
from typing import NamedTuple

from .errors import StartError
from .limits import limit


class User(NamedTuple):
    """Who a server runs as when it is not ourselves."""

    name: str
    uid: int
    gid: int


def unprivileged_user() -> User | None:
    """Return whom memcached must become, or None when we are not root. Raises StartError."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        # That is what it says, too, when it has no descriptor left to read the list with.
        reached = _limit_of_reading("/etc/passwd")
        raise StartError(
            f"the user 'nobody' cannot be looked up: {reached}"
            if reached
            else "memcached must not run as root, and this system has no user 'nobody' to run it "
            "as: add one, or run as another user"
        ) from None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _limit_of_reading(path: str) -> str | None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        return limit(error)
    return None
