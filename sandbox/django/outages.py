"""Breaks the servers of an alias of CACHES while a test lasts."""

from __future__ import annotations

from django.test.utils import TestContextDecorator

from ..errors import OptionError
from ..registry.directories import OUTAGES
from ..server.outages import BrokenServers
from .aliases import servers_of_aliases


class outage(TestContextDecorator):  # noqa: N801 - used as `@outage("down")`, like override_settings
    """Has the servers of an alias in an outage: for a test, a test case or a ``with``.

        @outage("down")
        def test_page_without_cache(self):
            self.assertEqual(self.client.get("/").status_code, 200)

    On a test case it is for each of its tests, setUp and tearDown included. What each outage is,
    and what clients of your own need afterwards, is told at `sandbox.Server`.

    :param kind: "down", "hung" or "full".
    :param alias: one in CACHES.
    :raises OptionError: there is no such kind.
    :raises RunError: when it begins: the alias is in no sandbox.
    :raises ServerError: when it begins: it cannot be had.
    """

    __module__ = "sandbox.django"  # where its users find it

    def __init__(self, kind: str, alias: str = "default") -> None:
        if kind not in OUTAGES:
            raise OptionError("kind", f"outage({kind!r}): the kinds are {', '.join(OUTAGES)}")
        super().__init__()
        self._begun: list[BrokenServers] = []
        self._kind = kind
        self._alias = alias

    def enable(self) -> None:
        """Begins it."""
        servers = servers_of_aliases([self._alias], f"outage({self._kind!r})")
        begun = BrokenServers(servers, self._kind)
        begun.__enter__()
        self._begun.append(begun)

    def disable(self) -> None:
        """Ends it."""
        self._begun.pop().__exit__()
