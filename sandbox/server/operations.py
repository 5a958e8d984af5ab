"""Describes an operation of a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from ..errors import printable

if TYPE_CHECKING:
    from .commands import Request

# The verbs that store a value, and those that fetch one.
STORING = frozenset(("set", "add", "replace", "append", "prepend", "cas"))
READING = frozenset(("get", "gat"))

# Those whose outcome depends on whether the key is there.
DEPENDING = READING | STORING - {"set"} | {"touch", "incr", "decr"}

# Seconds from which on an expiry is a Unix time: REALTIME_MAXDELTA in memcached.c.
UNIX_TIME = 60 * 60 * 24 * 30


class Operation(NamedTuple):
    """Describes one operation of a client on one key.

    verb: get, gat, set, add, replace, append, prepend, cas, delete, touch, incr, decr or flush.
    key: the key as it was sent. It is "" for flush, and for append and prepend of the binary
        protocol, whose keys memcached does not log.
    name: the key without KEY_PREFIX and VERSION, if a cache of Django with its own KEY_FUNCTION is
        at this server; otherwise the same as ``key``.
    found: whether the key was there; None where memcached does not tell, as of a set.
    expires: as it was sent: seconds, or a Unix time beyond 30 days; 0 for never, negative for at
        once. None if it was not sent, and for the binary protocol, whose expiries are not logged.
        Of a flush it is the delay.
    size: the value's bytes; None if none was sent.
    client: a number that no two connections of a trace share.
    """

    verb: str
    key: str
    name: str
    found: bool | None
    expires: int | None
    size: int | None
    client: int

    def __str__(self) -> str:
        """Returns it in one line, such as ``set shop:1:menu:7 60 s, 412 bytes``."""
        words = [*self._expiry()]
        if self.size is not None:
            words.append(f"{self.size:,} byte{'s' * (self.size != 1)}")
        if self.found is not None:
            words.append("hit" if self.found else "miss")
        return " ".join(filter(None, (self.verb, printable(self.key), ", ".join(words))))

    def _expiry(self) -> Iterator[str]:
        if self.expires is None:
            return
        if self.expires > UNIX_TIME:
            try:
                when = datetime.fromtimestamp(self.expires, timezone.utc)
                yield f"until {when:%Y-%m-%d %H:%M:%S} UTC"
            except (ValueError, OverflowError, OSError):  # after the year 9999
                yield f"until {self.expires}"
        elif self.expires > 0:
            yield f"{self.expires} s"
        else:
            yield "never expires" if self.expires == 0 else "expires at once"


Operation.__module__ = "sandbox"  # where its users find it


def operation_of(request: Request, name_of: Callable[[str], str]) -> Operation:
    """Returns the operation that a request in the log is.

    :param name_of: returns the name of a key.
    """
    key = request.key.decode(errors="backslashreplace")
    name = name_of(key) if key else ""
    return Operation(
        *(request.verb, key, name, request.found, request.expires, request.size, request.client)
    )
