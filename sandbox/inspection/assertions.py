"""Compares what tests do to their caches with what they say that they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypedDict, cast

from ..errors import OptionError, printable
from ..server.counts import COUNTERS, Counts

if TYPE_CHECKING:
    from types import TracebackType

    from ..server import Server
    from ..server.operations import Operation
    from ..server.trace import Operations

# How many operations a failure lists.
MOST_OPERATIONS = 50

# Has unittest leave the frames of this module out of tracebacks.
__unittest = True


class ExpectedCounts(TypedDict, total=False):
    """Counts that a test expects, named as in `sandbox.Counts`."""

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


class ExpectedOperations:
    """Fails with an AssertionError if its body does something else to servers than expected.

    They are traced meanwhile, for the text of the failure. An error of the body comes first.

    :param servers: those whose counts are summed.
    :param name: what the servers are called.
    :param expected: the counts, or their upper limits; others are not compared.
    :param is_limit: whether they are limits.
    :raises OptionError: a count is none, or no count is given.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        name: str,
        expected: ExpectedCounts,
        is_limit: bool = False,
    ) -> None:
        _check(expected)
        self._servers = servers
        self._name = name
        self._expected = cast("dict[str, int]", expected)
        self._is_limit = is_limit
        self._stack = ExitStack()
        self._traces: list[Operations] = []
        self._counts: list[Counts] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            self._traces = [stack.enter_context(server.trace()) for server in self._servers]
            self._counts = [stack.enter_context(server.counting()) for server in self._servers]
            self._stack = stack.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True  # has pytest leave this frame out, too
        self._stack.__exit__(kind, error, traceback)
        if kind is None and (problems := [*self._problems()]):
            lines = [f"{self._name}: {'; '.join(problems)}", *self._operations()]
            raise AssertionError("\n".join(lines))

    def _problems(self) -> Iterator[str]:
        for name, expected in self._expected.items():
            found = sum(getattr(counts, name) for counts in self._counts)
            if found > expected or (found < expected and not self._is_limit):
                limit = "at most " if self._is_limit else ""
                yield f"{name}: expected {limit}{expected:,}, found {found:,}"

    def _operations(self) -> Iterator[str]:
        for server, operations in zip(self._servers, self._traces, strict=True):
            if len(self._servers) > 1:
                yield f"memcached at {printable(server.address)}:"
            for line in _listed(operations):
                yield f"  {line}"


def _listed(operations: Sequence[Operation]) -> Iterator[str]:
    """Returns the lines that list the first operations of a trace, with repeated ones marked."""
    seen: set[tuple[str, str]] = set()
    for operation in operations[:MOST_OPERATIONS]:
        what = (operation.verb, operation.key)
        yield f"{operation} (again)" if what in seen else str(operation)
        seen.add(what)
    if (more := len(operations) - MOST_OPERATIONS) > 0:
        yield f"... and {more:,} more"
    if not operations:
        yield "no operation"


def _check(expected: Mapping[str, object]) -> None:
    names = ", ".join(COUNTERS)
    if not expected:
        raise OptionError("", f"no count is given, so that nothing would be checked: give {names}")
    for name, value in expected.items():
        if name not in COUNTERS:
            raise OptionError(name, f"{name}={value!r}: there is no such count; there are {names}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise OptionError(name, f"{name}={value!r}: must be a whole number, 0 or more")
