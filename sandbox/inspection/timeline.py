"""Keeps what a test did to its caches, operation by operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..server.operations import READING, STORING, operation_of

if TYPE_CHECKING:
    from ..server.commands import Request

# The kinds of operations, by which a page colours them.
HIT = "hit"
MISS = "miss"
SET = "set"
REFUSED = "refused"
OTHER = "other"
KINDS = (HIT, MISS, SET, REFUSED, OTHER)

# How many steps are kept of a test on one server.
MOST_STEPS = 200


class Step(NamedTuple):
    """Is an operation that a test did, or several alike in a row."""

    kind: str
    text: str
    times: int = 1


class Timeline:
    """Keeps the first operations of a test on one server."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._is_full = False

    def see(self, request: Request) -> None:
        """Takes an operation."""
        if self._is_full:
            return
        kind, text = _kind(request), str(operation_of(request, str))
        if kind == REFUSED:
            text += ", refused"
        last = self._steps[-1] if self._steps else None
        if last is not None and last[:2] == (kind, text):
            self._steps[-1] = last._replace(times=last.times + 1)
        elif len(self._steps) < MOST_STEPS:
            self._steps.append(Step(kind, text))
        else:
            self._is_full = True

    def packed(self) -> str:
        """Returns it in one string, for `steps`: that takes a fifth of the memory."""
        return "\n".join(f"{step.times} {step.kind} {step.text}" for step in self._steps)


def steps(packed: str) -> Iterator[Step]:
    """Returns the steps of a timeline."""
    for line in packed.split("\n"):
        times, kind, text = line.split(" ", 2)
        yield Step(kind, text, int(times))


def _kind(request: Request) -> str:
    if request.verb in READING:
        return HIT if request.found else MISS
    if request.verb in STORING:
        return REFUSED if request.was_refused else SET
    return OTHER
