"""Compares what a test does to the caches of Django with what it says that it does."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..errors import OptionError
from ..inspection.assertions import ExpectedOperations
from .aliases import servers_of_aliases

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..inspection.assertions import ExpectedCounts


class CacheOpsMixin:
    """Gives a test case assertions about the operations on its caches.

        class HomeTests(CacheOpsMixin, TestCase):
            def test_second_visit(self):
                self.client.get("/")
                with self.assertCacheOps(gets=1, hits=1, sets=0):
                    self.client.get("/")

    They count the operations of all clients, in any process, by memcached's own counters: those of
    `sandbox.Counts`. What is not named is not compared. A failure lists the operations.
    """

    def assertCacheOps(  # noqa: N802 - named as unittest's
        self, *, using: str | Collection[str] = "default", **counts: Unpack[ExpectedCounts]
    ) -> AbstractContextManager[None]:
        """Fails if its body does something else to caches than these counts.

        :param using: an alias of CACHES, or several. Aliases with one address have one server, and
            are counted together.
        :raises OptionError: a count is none, or no count or no alias is given.
        :raises RunError: an alias is in no sandbox.
        """
        return expected_operations("assertCacheOps()", using, counts)

    def assertMaxCacheOps(  # noqa: N802 - named as unittest's
        self, *, using: str | Collection[str] = "default", **counts: Unpack[ExpectedCounts]
    ) -> AbstractContextManager[None]:
        """Fails if its body does more to caches than these counts; see `assertCacheOps`."""
        return expected_operations("assertMaxCacheOps()", using, counts, is_limit=True)


def expected_operations(
    caller: str, using: str | Collection[str], counts: ExpectedCounts, is_limit: bool = False
) -> ExpectedOperations:
    """Returns what compares the operations on aliases with counts.

    :param caller: what the test has called.
    """
    aliases = [using] if isinstance(using, str) else using
    if not using or not isinstance(aliases, Collection):
        raise OptionError("using", f"{caller}: using={using!r}: must be an alias, or several")
    name = " and ".join(f"CACHES[{alias!r}]" for alias in aliases)
    return ExpectedOperations(servers_of_aliases(aliases, caller), name, counts, is_limit)
