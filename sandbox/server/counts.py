"""Counts the operations of clients by memcached's own counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import ServerError
from ..inject import protocol
from .warn import warn_user

if TYPE_CHECKING:
    from . import Server

# The counters of memcached, as `stats` lists them, whose sum each count is.
COUNTERS = {
    "gets": ("cmd_get",),
    "hits": ("get_hits",),
    "misses": ("get_misses",),
    "sets": ("cmd_set",),
    "deletes": ("delete_hits", "delete_misses"),
    "touches": ("cmd_touch",),
    "increments": ("incr_hits", "incr_misses", "decr_hits", "decr_misses"),
    "evictions": ("evictions",),
    "bytes_read": ("bytes_read",),
    "bytes_written": ("bytes_written",),
}


class Counts:
    """Holds the counts of `Server.counting`, once that has ended.

    ============= ==================================================================
    count         sum of these counters of memcached
    ============= ==================================================================
    gets          cmd_get: keys that were asked for
    hits          get_hits: those that were there, gat's among them
    misses        get_misses
    sets          cmd_set: set, add, replace, append, prepend, cas, done or not, if there was memory
    deletes       delete_hits, delete_misses
    touches       cmd_touch: touch and gat
    increments    incr_hits, incr_misses, decr_hits, decr_misses
    evictions     evictions: items that gave way to others before they expired
    bytes_read    bytes_read: what clients have sent
    bytes_written bytes_written: what they were answered
    ============= ==================================================================

    :raises ServerError: it has not ended yet.
    """

    __module__ = "sandbox"  # where its users find it

    gets: int
    hits: int
    misses: int
    sets: int
    deletes: int
    touches: int
    increments: int
    evictions: int
    bytes_read: int
    bytes_written: int

    def __getattr__(self, name: str) -> int:
        if name in COUNTERS:
            raise ServerError(f"{name} is not known before the 'with' of counting() has ended")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({counts or 'not known yet'})"


@contextmanager
def counting(server: Server) -> Iterator[Counts]:
    """Counts while its body lasts; see `Server.counting`."""
    counts = Counts()
    before = _read(server)
    try:
        yield counts
    except BaseException:
        with suppress(ServerError):  # What has failed in the body matters more.
            vars(counts).update(_differences(before, _read(server)))
        raise
    vars(counts).update(_differences(before, _read(server)))


def _read(server: Server) -> dict[str, int]:
    """Returns the sum of each count since the server was started, without this process's own bytes.

    Also returns its pid.
    """
    with server._at_rest() as (connection, problem):
        if problem:
            warn_user(f"{problem}, and is counted in part")
        # memcached has read the next request when it answers, but not sent that answer.
        sent, received = protocol.exchanged(server.address)
        counters = connection.stats()
        counts = {
            count: sum(protocol.number(counters, name) for name in names)
            for count, names in COUNTERS.items()
        }
        counts["bytes_read"] -= sent
        counts["bytes_written"] -= received
        return {**counts, "pid": protocol.number(counters, "pid")}


def _differences(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    if before["pid"] != after["pid"]:
        raise ServerError("memcached was started anew while its operations were being counted")
    if any(after[count] < before[count] for count in COUNTERS if "bytes" not in count):
        raise ServerError("a client has reset the counters of memcached: nothing can be counted")
    # Of several threads that are not seen, one may have sent bytes that it has not counted yet.
    return {count: max(0, after[count] - before[count]) for count in COUNTERS}
