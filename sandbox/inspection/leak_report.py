"""Tells of leaks: in lines for a terminal, and in JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import printable
from .leaks import Leak, Replay
from .names import counted, short_names, shortened
from .patterns import patterns

# How many lines are printed, and how many tests in one of them.
MOST_LINES = 20


class LeakReport:
    """Collects the leaks of a run, from all its servers and processes."""

    def __init__(self) -> None:
        self._leaks: list[Leak] = []
        self._tests = 0
        self._workers = 0  # that have run tests
        self._dropped = 0
        self._flaws: list[str] = []

    def add(self, replays: Sequence[Replay]) -> None:
        """Adds what was found on the servers of one process, or of several workers."""
        self._leaks += dict.fromkeys(leak for replay in replays for leak in replay.leaks())
        self._tests += len(set().union(*(replay.tests for replay in replays)))
        self._workers += _workers([replay.tests for replay in replays if replay.tests])
        for replay in replays:
            if len(replay.tests) > 1 >= replay.periods:
                self.note(f"the caches of {len(replay.tests):,} tests were not emptied in between")
        self._dropped += sum(replay.dropped for replay in replays)
        self._flaws += [flaw for replay in replays for flaw in replay.flaws]

    @property
    def has_any(self) -> bool:
        """Whether there are leaks, or some may be missing."""
        return bool(self._leaks or self._flaws or not self._tests)

    def note(self, flaw: str) -> None:
        """Notes why leaks may be missing."""
        self._flaws.append(flaw)

    def packed(self) -> Any:
        """Returns all of it in lists and tuples, for another process to unpack."""
        return [*map(tuple, self._leaks)], self._tests, self._workers, self._dropped, self._flaws

    def add_packed(self, packed: Any) -> None:
        """Adds what `packed` has returned in another process."""
        leaks, tests, workers, dropped, flaws = packed
        self._leaks += [Leak(*leak) for leak in leaks]
        self._tests += tests
        self._workers += workers
        self._dropped += dropped
        self._flaws += flaws

    def as_json(self) -> dict[str, Any]:
        """Returns all of it for a file of JSON."""
        folded = patterns(leak.key for leak in self._leaks)
        return {
            "tests": self._tests,
            "workers": self._workers,
            "leaks": [{**leak._asdict(), "pattern": folded[leak.key]} for leak in self._leaks],
            "not_listed": self._dropped,
            "warnings": self._flaws,
        }

    def lines(self) -> Iterator[str]:
        """Returns the lines for a terminal."""
        for flaw in dict.fromkeys(self._flaws):
            yield f"leaks may be missing or wrong: {flaw}"
        if not self._tests:
            yield (
                "nothing is known of leaks: no test of unittest, Django or pytest was run in a "
                "process with a server of the sandbox"
            )
            return
        where = ", of those in the same worker" if self._workers > 1 else ""
        if not self._leaks:
            tests = counted(self._tests, "test")
            yield f"without isolation none of {tests} would have reached another{where}"
            return
        keys, left_by, found_by = ({*column} for column in zip(*self._leaks, strict=True))
        yield (
            f"without isolation {counted(len(keys), 'key')} of {counted(len(left_by), 'test')} "
            f"would have reached {counted(len(found_by), 'other')}{where}:"
        )
        yield from (f"  {line}" for line in self._table())

    def _table(self) -> Iterator[str]:
        """Returns a line for each pattern of keys and each test that has left some of them."""
        folded = patterns(leak.key for leak in self._leaks)
        names = short_names(test for leak in self._leaks for test in leak[1:])
        rows: dict[tuple[str, str], dict[str, None]] = {}
        for key, left_by, found_by in self._leaks:
            rows.setdefault((shortened(printable(folded[key])), names[left_by]), {})[
                names[found_by]
            ] = None
        shown = [*rows.items()][:MOST_LINES]
        widths = [max(len(row[column]) for row, _ in shown) for column in (0, 1)]
        for (pattern, test), others in shown:
            yield f"{pattern:{widths[0]}}   {test:{widths[1]}} -> {', '.join(_cut(others))}"
        more = len(rows) - len(shown)
        if more or self._dropped:
            yield f"... and {more + self._dropped:,} more"


def _workers(tests: Sequence[set[str]]) -> int:
    """Returns in how many groups of tests, without one in common, servers have seen them."""
    groups: list[set[str]] = []
    for names in tests:
        apart = [group for group in groups if not group & names]
        groups = [*apart, names.union(*(group for group in groups if group & names))]
    return len(groups)


def _cut(names: Iterable[str]) -> list[str]:
    names = [*names]
    more = len(names) - MOST_LINES
    return names if more <= 0 else [*names[:MOST_LINES], f"{more:,} more"]
