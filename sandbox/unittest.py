"""Gives test cases of plain unittest a memcached of their own."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, ClassVar

from .inject import guard
from .server.memcached import Memcached

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server.options import MemcachedOptions

    Base = unittest.TestCase
else:
    Base = object


class MemcachedMixin(Base):
    """Gives a TestCase a server for the class, emptied after each test; put it first.

    memcached: the server, from `setUpClass` on.
    memcached_options: its options, as those of `sandbox.Memcached`.
    """

    memcached: ClassVar[Memcached]
    memcached_options: ClassVar[MemcachedOptions] = {}

    @classmethod
    def setUpClass(cls) -> None:
        """Starts the server.

        :raises SandboxError: it cannot be started; unittest reports an error of the class.
        """
        cls.memcached = Memcached(**cls.memcached_options)
        cls.memcached.start()
        guard.undelay([cls.memcached.address])
        # What is cleaned up last was there first: it outlives all that the class sets up.
        cls.addClassCleanup(cls.memcached.stop)
        super().setUpClass()

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Runs the test, and empties the server after all other cleanups."""
        # Not in setUp, which not everyone passes on, and before it: cleaned up last.
        self.addCleanup(self._flush_memcached)
        return super().run(result)

    @property
    def teardown_example(self) -> Callable[[object], None]:
        """Empties the server after an example of Hypothesis, if the test case tears it down.

        :raises AttributeError: it does not. Those of `hypothesis.extra.django` do.
        """
        tear_down = super().teardown_example  # type: ignore[misc]

        def flushing(example: object) -> None:
            tear_down(example)
            self._flush_memcached()

        return flushing

    def _flush_memcached(self) -> None:
        self.memcached.mend()
        self.memcached.flush()


class MemcachedTestCase(MemcachedMixin, unittest.TestCase):
    """Runs a server for the class, and empties it after each test."""
