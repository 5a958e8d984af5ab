"""Tests at a server whose log is followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pymemcache

from sandbox import Memcached
from sandbox.inject import emptying
from sandbox.inspection.inspector import Inspector
from sandbox.inspection.wanted import Wanted

if TYPE_CHECKING:
    from typing_extensions import Self


class MarkedTests:
    """Marks tests at a server, as the processes of a run do."""

    def __init__(self, wanted: Wanted, **options: Any) -> None:
        self.inspector = Inspector(wanted)
        self.server = Memcached(**options)
        self.server.follow_log = self.inspector.follow
        self._emptier = emptying.Emptier(5.0, ends_tests=True)

    def __enter__(self) -> Self:
        self.server.start()
        self.client = pymemcache.Client(self.server.address, no_delay=True, default_noreply=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._emptier.close()
        self.inspector.finish()
        self.server.stop()

    def begin(self, name: str) -> None:
        self._emptier.begin_test([self.server.address], quote(name).encode())

    def end(self) -> None:
        self._emptier.empty([self.server.address])

    def run(self, name: str, *operations: Callable[[pymemcache.Client], object]) -> None:
        """Run a test that does these operations; what memcached refuses is no error."""
        self.begin(name)
        for operation in operations:
            try:
                operation(self.client)
            except pymemcache.exceptions.MemcacheServerError:
                self.client.close()  # The rest of an answer may come.
        self.end()
