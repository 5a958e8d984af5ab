"""Caches that only some of the tests have."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ..inject import guard, pytest_plugin
from .plugin import FailureContents, Hook, section_of

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.options import MemcachedOptions


class OtherCaches(FailureContents):
    """Empties the other caches, and shows their items when a test fails."""

    def __init__(self, box: Sandbox, flush: str) -> None:
        super().__init__()
        self._box = box
        self._flush = flush

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Hook:
        """Shows what these caches held when a test failed."""
        report: pytest.TestReport = yield
        self.show(report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_teardown")
    def pytest_flush_after_attempt(self, item: pytest.Item, nextitem: pytest.Item | None) -> Hook:
        """Empties these caches after each attempt at a test."""
        try:
            return (yield)
        finally:
            if not pytest_plugin.keeps(item, nextitem, self._flush):
                self._box.flush()
            else:
                self._box.mend(server.address for server in self._box.servers)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Empties these caches after each example, too, if the test case tears examples down."""
        case = getattr(item, "instance", None)
        tear_down = getattr(case, "teardown_example", None)
        if tear_down is None or pytest_plugin.kept_for(item, self._flush) != "test":
            return

        def teardown_example(example: object) -> None:
            tear_down(example)
            self._box.flush()

        setattr(case, "teardown_example", teardown_example)  # noqa: B010 - of any class

    def contents(self) -> list[tuple[str, str]]:
        """Returns a section for each of these servers."""
        return [section_of(server) for server in self._box.servers]


@contextmanager
def other_caches(
    config: pytest.Config,
    flush: str,
    exclude: Collection[str],
    guarded: Collection[str] | None,
    options: MemcachedOptions,
) -> Iterator[Sandbox]:
    """Gives Django other caches of its own while the context lasts, as `sandboxed_caches` does."""
    from ..django import sandboxed_caches

    before = guard.guarded()
    with sandboxed_caches(exclude=exclude, **options) as box:
        others = OtherCaches(box, flush)
        config.pluginmanager.register(others)
        try:
            if guarded is None:
                guard.restore({})
            for address in guarded or ():
                guard.guard(address)
            yield box
        finally:
            guard.restore(before)
            config.pluginmanager.unregister(others)
