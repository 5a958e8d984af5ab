"""Finds what tests would have left in the caches for others, had nobody emptied them.

The operations of all tests on one server are replayed, in their order, as on a memcached that is
never flushed. A test that found nothing at a key, where the replay has what an earlier test left,
would have found that.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, NamedTuple

from ..inject import protocol
from ..server.operations import DEPENDING, UNIX_TIME
from .follower import UNKNOWN_EXPIRY, FollowerByTest

if TYPE_CHECKING:
    from ..server.commands import Request

# What replaces a value that is there.
REPLACING = frozenset(("replace", "cas"))

# Bytes that the items of all replays may take, about. Beyond that, each forgets what was set first.
MOST_BYTES = 24_000_000
BYTES_OF_AN_ITEM = 350

# How many leaks of a server are kept.
MOST_LEAKS = 20_000

# A flaw.
FORGOTTEN = "the keys that were set first are forgotten, to save memory"


class Leak(NamedTuple):
    """Is a key that one test has left, and that another would have found."""

    key: str
    left_by: str
    found_by: str


class _Test:
    """Is what happened on a server up to the end of a test."""

    def __init__(self, period: int) -> None:
        self.name = ""  # before it begins, if it does
        self.period = period  # in which the server was not emptied


class _Left(NamedTuple):
    """Is an item that would be there. It expires at a time of `protocol.now`."""

    test: _Test
    expires: float | None


# Those of this process, which share the memory.
_replays: weakref.WeakSet[Replay] = weakref.WeakSet()


class Replay(FollowerByTest):
    """Replays the operations on one server, whose log it follows.

    dropped: how many leaks are not kept.
    periods: how often the server was emptied after a test.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self.periods = 0
        self._items: dict[bytes, _Left] = {}  # the one that was set first comes first
        self._bytes = 0
        self._test = _Test(0)
        self._leaks: dict[tuple[bytes, _Test, _Test], None] = {}
        _replays.add(self)
        self._boot = time.time() - protocol.now()  # before tests set the clock

    def leaks(self) -> list[Leak]:
        """Returns the leaks that were found, in their order, each once."""
        return [
            *dict.fromkeys(
                Leak(key.decode(errors="backslashreplace"), left.name, found.name)
                for key, left, found in self._leaks
                if left.name and found.name and left.name != found.name
            )
        ]

    def see_flush(self) -> None:
        """Empties the replay."""
        self._items.clear()
        self._bytes = 0

    def begin_test(self, name: str) -> None:
        """Names the test that what was done since the last one belongs to."""
        self._test.name = name

    def end_test(self, is_emptied: bool) -> None:
        """Begins another test."""
        self.periods += is_emptied
        self._test = _Test(self.periods)

    def see(self, request: Request) -> None:
        """Replays an operation."""
        verb, key, when = request.verb, request.key, protocol.now()
        if verb == "flush":
            if request.expires is None:
                self.see_flush()
            return
        item = self._items.get(key)
        if item is not None and item.expires is not None and item.expires <= when:
            self._forget(key)
            item = None
        was_missed = verb in DEPENDING and not request.found
        if was_missed and item is not None and item.test.period != self._test.period:
            self._add_leak((key, item.test, self._test))
        finds = item is not None
        stores = verb == "set" or (verb == "add" and not finds) or (verb in REPLACING and finds)
        if verb == "delete" or (verb == "set" and request.was_refused):
            # memcached deletes what a value that it refuses was to replace.
            self._forget(key)
        elif stores and not request.was_refused:
            if request.hides_expiry:
                self.note(UNKNOWN_EXPIRY)
            self._put(key, self._expiry(request, when))
        elif verb in ("touch", "gat") and item is not None:
            self._items[key] = item._replace(expires=self._expiry(request, when))
        elif request.may_create and item is None:
            self._put(key, None)

    def _add_leak(self, leak: tuple[bytes, _Test, _Test]) -> None:
        if len(self._leaks) < MOST_LEAKS:
            self._leaks[leak] = None
        else:
            self.dropped += leak not in self._leaks

    def _put(self, key: bytes, expires: float | None) -> None:
        self._forget(key)
        if expires is not None and expires < 0:
            return
        self._items[key] = _Left(self._test, expires)
        self._bytes += len(key) + BYTES_OF_AN_ITEM
        while self._bytes > MOST_BYTES // len(_replays):
            self.note(FORGOTTEN)
            self._forget(next(iter(self._items)))

    def _forget(self, key: bytes) -> None:
        if self._items.pop(key, None) is not None:
            self._bytes -= len(key) + BYTES_OF_AN_ITEM

    def _expiry(self, request: Request, when: float) -> float | None:
        """Returns when an item expires; None for never, or if that is not known."""
        if not request.expires:
            return None
        if request.expires > UNIX_TIME:
            return request.expires - self._boot
        return when + request.expires if request.expires > 0 else -1
