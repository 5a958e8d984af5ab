"""Tells what tests did to their caches, as far as that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import printable
from .findings import Findings, FindingsFollower
from .leak_report import LeakReport
from .leaks import Replay
from .names import short_names, table
from .page import write_page
from .timeline import ROOM_OF_RUN, TimelineFollower, Timelines
from .traffic import Counted, Traffic, TrafficFollower

if TYPE_CHECKING:
    from .findings import Finding
    from .follower import FollowerByTest
    from .wanted import Wanted

# How many patterns, and how many tests, the tables have without --report-top.
TOP = 10


def followers_of(wanted: Wanted) -> list[Callable[[], FollowerByTest]]:
    """Returns what makes the followers of a server's log that these reports need."""
    makers: list[tuple[bool, Callable[[], FollowerByTest]]] = [
        (wanted.tells_leaks, Replay),
        (wanted.counts, TrafficFollower),
        (bool(wanted.report_html), TimelineFollower),
        (wanted.findings, FindingsFollower),
    ]
    return [maker for is_wanted, maker in makers if is_wanted]


class Report:
    """Collects what the followers of a run's logs have seen."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._leaks = LeakReport()
        self._traffic = Traffic()
        self._timelines = Timelines(ROOM_OF_RUN)
        self._findings = Findings()

    def add(self, followers: Iterable[FollowerByTest]) -> None:
        """Adds what was seen on the servers of this process, or of all workers."""
        followers = [*followers]
        self._leaks.add([each for each in followers if isinstance(each, Replay)])
        self._traffic.add(e.traffic for e in followers if isinstance(e, TrafficFollower))
        for each in followers:
            if isinstance(each, FindingsFollower):
                self._findings.add_all(each.findings)
            elif isinstance(each, TimelineFollower):
                self._timelines.add_all(each.timelines.by_test)

    def never_read(self) -> list[Finding]:
        """Returns what was set and never read, as far as findings are wanted."""
        return self._findings.never_read()

    def note(self, flaw: str) -> None:
        """Notes why all of it may be incomplete."""
        self._leaks.note(flaw)
        self._traffic.flaws.append(flaw)
        self._findings.flaws.append(flaw)

    def packed(self) -> Any:
        """Returns all of it in lists and dicts, for another process to unpack."""
        counts = self._leaks.packed(), self._traffic.packed(), self._findings.packed()
        return *counts, self._timelines.by_test

    def add_packed(self, packed: Any) -> None:
        """Adds what `packed` has returned in another process."""
        leaks, traffic, findings, timelines = packed
        self._leaks.add_packed(leaks)
        self._traffic.add_packed(traffic)
        self._findings.add_packed(findings)
        self._timelines.add_all(timelines)

    def write(self) -> Iterator[tuple[str, OSError]]:
        """Writes the files, and returns those that cannot be written."""
        for path, write in (
            (self._wanted.leaks_json, partial(_write_json, self._leaks)),
            (self._wanted.report_json, partial(_write_json, self._traffic)),
            (self._wanted.report_html, partial(write_page, self._traffic, self._timelines.by_test)),
        ):
            if path:
                try:
                    with open(path, "w", encoding="utf-8") as file:
                        write(file)
                except OSError as error:
                    yield path, error

    def lines(self, evictions: int, quiet: bool) -> Iterator[tuple[str, bool]]:
        """Returns the lines for a terminal, and whether each is a warning.

        :param evictions: how many items gave way to others.
        :param quiet: only what is a warning.
        """
        wanted = self._wanted
        if wanted.tells_leaks:
            is_warning = self._leaks.has_any
            if is_warning or not quiet:
                yield from ((line, is_warning) for line in self._leaks.lines())
        if wanted.prints_report and not quiet:
            yield from ((line, False) for line in self._tables(wanted.report_top or TOP))
        if wanted.findings:
            lines = [*self._findings.lines()]
            if evictions:
                lines.append(f"evicted: {evictions:,} items gave way to others for want of memory")
            if lines:
                yield "findings:", True
                yield from ((f"  {line}", True) for line in lines)
            elif not quiet:
                yield "no findings", False

    def _tables(self, top: int) -> Iterator[str]:
        traffic = self._traffic
        for flaw in dict.fromkeys(traffic.flaws):
            yield f"operations may be missing in what follows: {flaw}"
        if doubt := traffic.total().doubt():
            yield doubt
        patterns, tests = traffic.shown_patterns(), traffic.tests()
        if not patterns and not tests:
            yield "no operation was seen"
            return
        yield f"keys with most operations, of {len(patterns):,}:"
        rows = [("key", "gets", "hits", "sets", "expiry", "bytes", "tests")]
        for pattern, of_pattern in patterns[:top]:
            expiry, many = str(of_pattern.expiry), f"{len(of_pattern.tests):,}"
            row = (*_counts(of_pattern), expiry, f"{of_pattern.bytes:,}", many)
            rows.append((printable(pattern), *row))
        yield from (f"  {line}" for line in table(rows))
        names = short_names(tests)
        yield f"tests with most operations, of {len(tests):,}:"
        lines = [("test", "operations", "gets", "hits", "sets", "bytes")]
        for name in tests[:top]:
            test = traffic.by_test[name]
            lines.append((names[name], f"{test.operations:,}", *_counts(test), f"{test.bytes:,}"))
        yield from (f"  {line}" for line in table(lines))


def _write_json(content: LeakReport | Traffic, file: TextIO) -> None:
    json.dump(content.as_json(), file, indent=2)
    file.write("\n")


def _counts(counted: Counted) -> tuple[str, str, str]:
    return f"{counted.gets:,}", counted.hit_rate(), f"{counted.sets:,}"
