"""Keeps the operations of tests, one by one."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import printable
from ..server.operations import READING, STORING, operation_of
from .follower import FollowerByTest

if TYPE_CHECKING:
    from ..server.commands import Request

# The kinds of steps. The page has a colour for each.
HIT = "hit"
MISS = "miss"
SET = "set"
NOT_STORED = "not-stored"
OTHER = "other"
KINDS = (HIT, MISS, SET, NOT_STORED, OTHER)

# How many steps are kept of a test on one server.
MOST_STEPS = 200

# How many bytes of memory the timelines of a server take, and those of the run.
ROOM_OF_SERVER = 8 * 1024 * 1024
ROOM_OF_RUN = 16 * 1024 * 1024


class Step(NamedTuple):
    """Describes an operation of a test, or several alike in a row.

    rest: what follows the key: expiry, size and outcome.
    """

    kind: str
    verb: str
    key: str
    rest: str
    times: int = 1


class Timeline:
    """Keeps the first operations of a test on one server."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._is_full = False

    def see(self, request: Request) -> None:
        """Takes an operation."""
        if self._is_full:
            return
        step = _step(request)
        last = self.steps[-1] if self.steps else None
        if last is not None and last._replace(times=1) == step:
            self.steps[-1] = last._replace(times=last.times + 1)
        elif len(self.steps) < MOST_STEPS:
            self.steps.append(step)
        else:
            self._is_full = True

    def packed(self, address: str) -> str:
        """Returns all steps in one string, for `unpacked`: a fifth of the memory.

        :param address: where the server is.
        """
        # No field has a tab or a line end: keys are printable.
        return "\n".join((address, *("\t".join(map(str, step)) for step in self.steps)))


class Timelines:
    """Keeps timelines of tests: the longest ones, if there is no room for all.

    by_test: those of each test, packed, one for each server and attempt.

    :param room: how many bytes of memory they may take.
    """

    def __init__(self, room: int) -> None:
        self.by_test: dict[str, list[str]] = {}
        self._room = room
        self._kept: list[tuple[int, str, str]] = []  # bytes, test and timeline, for heapq

    def add(self, test: str, packed: str) -> None:
        """Adds a timeline of a test."""
        self.by_test.setdefault(test, []).append(packed)
        size = sys.getsizeof(packed)
        self._room -= size
        heapq.heappush(self._kept, (size, test, packed))
        while self._room < 0:
            size, test, packed = heapq.heappop(self._kept)
            self._room += size
            self.by_test[test].remove(packed)

    def add_all(self, by_test: Mapping[str, Iterable[str]]) -> None:
        """Adds those of another server, or of another process."""
        for test, timelines in by_test.items():
            for packed in timelines:
                self.add(test, packed)


class TimelineFollower(FollowerByTest):
    """Keeps the timelines of tests on one server, whose log it follows."""

    def __init__(self) -> None:
        super().__init__()
        self.timelines = Timelines(ROOM_OF_SERVER)
        self._name = ""
        self._timeline = Timeline()

    def see(self, request: Request) -> None:
        """Takes an operation."""
        self._timeline.see(request)

    def begin_test(self, name: str) -> None:
        """Names the test that has the operations since the last one."""
        self._name = name

    def end_test(self, is_emptied: bool) -> None:  # noqa: ARG002
        """Adds the timeline of the test, unless it is empty."""
        if self._name and self._timeline.steps:
            self.timelines.add(self._name, self._timeline.packed(self.address))
        self._name, self._timeline = "", Timeline()


def unpacked(packed: str) -> tuple[str, list[Step]]:
    """Returns the server's address, and the steps."""
    address, *lines = packed.split("\n")
    steps = []
    for line in lines:
        kind, verb, key, rest, times = line.split("\t")
        steps.append(Step(kind, verb, key, rest, int(times)))
    return address, steps


def _step(request: Request) -> Step:
    operation = operation_of(request, str)
    key = printable(operation.key)
    rest = str(operation)[len(operation.verb) + 1 + len(key) :].strip()
    if request.was_refused:
        rest += ", refused"
    return Step(_kind(request), operation.verb, key, rest)


def _kind(request: Request) -> str:
    if request.verb in STORING:
        return SET if request.has_stored() else NOT_STORED
    if request.verb in READING and request.found is not None:
        return HIT if request.found else MISS
    return OTHER
