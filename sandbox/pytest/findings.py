"""Warns of what a test does to its caches that is seldom meant."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest

from ..errors import ServerError, printable
from ..inspection.findings import EVICTED, KINDS, Finding, FindingsFollower, MemcachedFinding
from ..server import numbers
from ..server.commands import Request
from ..server.memcached import server_at
from ..server.trace import read_logs, sync, traced
from .plugin import TITLE, Hook

if TYPE_CHECKING:
    from ..inject import run
    from ..run.summary import Summary
    from ..server import Server
    from ..server.log import Mark

MARKER = "allow_finding"


class SessionFindings:
    """Follows the servers of a session, and warns of findings: after each test, and at the end."""

    def __init__(self, current: run.Run, summary: Summary) -> None:
        self._run = current
        self._summary = summary
        self._stack = ExitStack()
        self._followed: dict[str, tuple[Server, FindingsFollower]] = {}
        self._evictions: dict[str, int] = {}
        self._item: pytest.Item | None = None  # the test that is under way
        self._warned: set[tuple[str, str]] = set()  # of it: a finding is told once, not per subtest
        self._locations: dict[str, tuple[str, int]] = {}  # the files and lines of tests

    def follow(self, addresses: Iterable[str]) -> None:
        """Follows these servers from now on, if it does not do so yet.

        :raises ServerError: one of them cannot be traced.
        """
        for address in addresses:
            if address not in self._followed:
                server, follower = server_at(address), _OfSession()
                follower.allows = self._allows
                self._stack.enter_context(traced(server, follower))
                self._followed[address] = server, follower
                if self._item is not None:
                    follower.begin_test(self._item.nodeid)

    def finish(self) -> list[FindingsFollower]:
        """Stops following, and returns the followers."""
        followers = self._followers()
        with suppress(ServerError):  # Of a server that has ended, as of one that hangs.
            self._stack.close()
        for follower in followers:
            follower.end_test(is_emptied=False)
        self._followed.clear()
        return followers

    def _followers(self) -> list[FindingsFollower]:
        return [follower for _, follower in self._followed.values()]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begins a test, or another attempt at it."""
        self._warned.clear()
        self.follow(self._run.servers())
        read_logs()
        for follower in self._followers():
            follower.end_test(is_emptied=False)
            follower.begin_test(item.nodeid)
        self._item = item
        for marker in item.iter_markers(MARKER):
            _check(marker)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes where tests are, those of workers, too."""
        path, line, _ = report.location
        self._locations[report.nodeid] = path, (line or 0) + 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Warns of what was set and never read, but not in a worker, which cannot know."""
        if hasattr(session.config, "workeroutput") or self._summary.report is None:
            return
        for finding in self._summary.report.never_read():
            try:
                path, line = self._locations.get(finding.test, ("", 0))
                _warn(f"{finding.kind}: {finding}", str(session.config.rootpath / path), line)
            except MemcachedFinding as error:
                self._summary.add_problem(str(error))
                if session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Hook:
        """Warns of what the test did. Where that is an error, the test fails."""
        report: pytest.TestReport = yield
        if call.when in ("call", "teardown"):
            errors = [str(error) for error in self._warnings(item)]
            if errors and not report.passed:  # An expected failure stays one.
                report.sections.append((TITLE, "\n".join(errors)))
            elif errors:
                report.outcome = "failed"
                report.longrepr = "\n".join(errors)
        return report

    def _warnings(self, item: pytest.Item) -> Iterator[MemcachedFinding]:
        """Warns of the findings of a test, and returns those that are errors."""
        for address, (server, follower) in self._followed.items():
            try:
                sync(server, follower)
                (evictions,) = numbers(server, "evictions")
            except ServerError:  # It has ended, or this is a fork; the flush tells of it.
                continue
            new = [f for f in follower.of_test() if (f.kind, f.key) not in self._warned]
            self._warned.update((finding.kind, finding.key) for finding in new)
            texts = [f"{finding.kind}: {finding}" for finding in new]
            more = evictions - self._evictions.get(address, 0)
            self._evictions[address] = evictions
            if more > 0 and not self._allows(Finding(EVICTED, "", item.nodeid)):
                texts.append(f"{EVICTED}: {more:,} items gave way to others for want of memory")
            for text in texts:
                try:
                    _warn(text, str(item.path), (item.location[1] or 0) + 1)
                except MemcachedFinding as error:
                    yield error

    def _allows(self, finding: Finding) -> bool:
        """Returns whether a marker of the test allows a finding."""
        if self._item is None:
            return False
        for marker in self._item.iter_markers(MARKER):
            kind, *patterns = marker.args or ("",)
            if kind == finding.kind and _matches(finding.key, patterns):
                return True
        return False


def _matches(key: str, patterns: list[object]) -> bool:
    """Returns whether a key, as it was sent or without prefix and version, fits a pattern."""
    names = (key, key.split(":", 2)[-1])
    return not patterns or any(
        fnmatchcase(n, pattern) for n in names for pattern in map(str, patterns)
    )


def _warn(text: str, path: str, line: int) -> None:
    warnings.warn_explicit(MemcachedFinding(printable(text)), None, path, line)


def _check(marker: pytest.Mark) -> None:
    """Fails the test if its marker allows nothing that is known."""
    are_strings = all(isinstance(argument, str) for argument in marker.args)
    if not (marker.args and are_strings and marker.args[0] in KINDS) or marker.kwargs:
        values = [*map(repr, marker.args)]
        values += [f"{name}={value!r}" for name, value in marker.kwargs.items()]
        pytest.fail(
            f"{MARKER} takes one of {', '.join(KINDS)}, and patterns of keys, but got "
            f"{', '.join(values) or 'nothing'}",
            pytrace=False,
        )


class _OfSession(FindingsFollower):
    """Is told by the session which test the operations belong to, and not by marks in the log.

    A test of Hypothesis has many of these: it empties the caches after each example.
    """

    def take(self, events: Iterable[Request | Mark]) -> None:
        """Takes what was read in the log."""
        for event in events:
            if isinstance(event, Request):
                self.see(event)
