"""Caches that only some of the tests have."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ..inject import guard, pytest_plugin
from .plugin import Hook, section_of

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.options import MemcachedOptions


class OtherCaches:
    """Empties the other caches, and shows their items when a test fails."""

    def __init__(self, box: Sandbox, flush: str) -> None:
        self._box = box
        self._flush = flush
        self._left: list[tuple[str, str]] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Hook:
        """Shows what these caches held when a test failed."""
        report: pytest.TestReport = yield
        if report.failed:
            report.sections += self._left or self._contents()
        self._left = []
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Hook:
        """Empties these caches after each attempt at a test."""
        try:
            return (yield)
        except BaseException:
            self._left = self._contents()
            raise
        finally:
            if not pytest_plugin.keeps(item, nextitem, self._flush):
                self._box.flush()

    def _contents(self) -> list[tuple[str, str]]:
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
