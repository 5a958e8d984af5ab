"""Empties servers between two tests, exactly.

What clients sent before is executed first, and then forgotten: each server must come to rest. What
is set afterwards stays.

Up to memcached 1.6.24, flush_all then forgets what has an older CAS number. Later ones walk the
lists of items, and may pass over some: there the counter curr_items proves the flush.
"""

from __future__ import annotations

import os

from .errors import ProtocolError
from .protocol import END, MARK, Tally, now, number
from .rest import WatchedServer, await_clients

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeVar

    _Result = TypeVar("_Result")

# The warning about a server that did not come to rest.
RESTLESS = (
    "was flushed before it came to rest: a client writes on, and the next test may find what it "
    "has written"
)

# Seconds to wait until all items are forgotten.
FLUSH_TIMEOUT = 1.0

# Versions from this one on may pass over items in flush_all: items.c, item_flush_expired().
WALKS_LISTS = (1, 6, 25)


class Emptier:
    """Empties servers over connections that it keeps. A fork makes its own.

    :param timeout: seconds to wait for each answer.
    :param sees_threads: the servers' pids mean the same to this process: they run on this machine.
    :param ends_tests: a test has ended whenever they are emptied.
    """

    def __init__(self, timeout: float, sees_threads: bool = True, ends_tests: bool = False) -> None:
        self._timeout = timeout
        self._mark = MARK + b" " + END if ends_tests else MARK
        self._sees_threads = sees_threads
        self._servers: dict[str, _Server] = {}
        self._owner = os.getpid()
        self.tally = Tally()  # of this process

    def empty(self, addresses: Collection[str], crawl: bool = False) -> list[str]:
        """Empties servers.

        :param crawl: free the memory of what is forgotten as well, so that ``stats cachedump``
            lists none of it. With memcached 1.6.25 and later it does so anyway.
        :returns: those that did not come to rest, so that something may be left.
        :raises OSError: one of them cannot be reached.
        :raises ProtocolError: one of them does not answer as memcached does.
        """
        return self._with_servers(addresses, lambda servers: self._empty(servers, crawl))

    def begin_test(self, addresses: Collection[str], name: bytes) -> None:
        """Marks in the logs of servers that a test begins.

        :param name: a word that memcached takes.
        :raises OSError: one of them cannot be reached.
        :raises ProtocolError: one of them does not answer as memcached does.
        """
        self._with_servers(addresses, lambda servers: self._mark_all(servers, name))

    def _with_servers(
        self, addresses: Collection[str], act: Callable[[dict[str, _Server]], _Result]
    ) -> _Result:
        """Does something over the connections that are kept; over new ones if that fails."""
        if self._owner != os.getpid():
            self.close()
            self._owner = os.getpid()
            self.tally = Tally()
        has_kept = bool(self._servers)
        try:
            try:
                return act(self._connected(addresses))
            except (OSError, ProtocolError):
                if not has_kept:
                    raise
                # A connection may have come to its end since the last time; a server may not.
                self.close()
                return act(self._connected(addresses))
        except BaseException:
            self.close()  # The next flush must not take the rest of an answer for its own.
            raise

    def _connected(self, addresses: Collection[str]) -> dict[str, _Server]:
        for address in addresses:
            if address in self._servers and not self._servers[address].is_intact():
                self._servers.pop(address).close()
            if address not in self._servers:
                self._servers[address] = _Server(
                    address, self._timeout, self._sees_threads, self.tally
                )
        return {address: self._servers[address] for address in addresses}

    def _mark_all(self, servers: dict[str, _Server], name: bytes) -> None:
        for server in servers.values():
            server.connection.send(MARK + b" " + name + b"\r\n")
        for server in servers.values():
            server.connection.await_mark()

    def _empty(self, addressed: dict[str, _Server], crawl: bool) -> list[str]:
        servers, addresses = addressed.values(), addressed.keys()
        held_back = await_clients(addresses)
        rested = [server.comes_to_rest() for server in servers]
        for server in servers:
            server.send_flush(self._mark)
        emptied = [server.await_flush(crawl) for server in servers]
        return [
            address
            for address, *is_well in zip(addresses, rested, emptied)
            if not all(is_well) or address in held_back
        ]

    def shows_threads(self, address: str) -> bool:
        """Returns whether /proc shows when the server is at rest."""
        self.empty([address])
        return bool(self._servers[address].threads)

    def close(self) -> None:
        """Closes the connections."""
        while self._servers:
            _, server = self._servers.popitem()
            server.close()


class _Server(WatchedServer):
    """Empties one server."""

    @property
    def _walks_lists(self) -> bool:
        return self.connection.version >= WALKS_LISTS

    def send_flush(self, mark: bytes) -> None:
        """Asks the server to forget all items, and marks that as this package's own doing."""
        commands = b"flush_all\r\nstats\r\n" if self._walks_lists else b"flush_all\r\n"
        self.connection.send(mark + b"\r\n" + commands)

    def await_flush(self, crawl: bool) -> bool:
        """Waits until all items are forgotten; returns whether they are."""
        self.connection.await_mark()
        self.connection.await_ok("flush_all")
        if not self._walks_lists:
            if crawl:
                self._crawl()
            return True
        if "STAT curr_items 0\r" in self.connection.await_stats("stats"):
            return True
        deadline = now() + FLUSH_TIMEOUT
        items = 1
        while items and now() < deadline:
            # A second ahead: an item that was read meanwhile counts as set then.
            self.connection.send(b"flush_all 1\r\n")
            self.connection.await_ok("flush_all 1")
            items = self._crawl()
        self.connection.send(b"flush_all\r\n")  # What is set from now on stays.
        self.connection.await_ok("flush_all")
        return not items

    def _crawl(self) -> int:
        """Makes memcached's crawler free all forgotten items; returns how many are left."""
        deadline = now() + self._timeout
        has_started = False
        while now() < deadline:
            if not has_started:
                # It is BUSY while it crawls for memcached itself.
                self.connection.send(b"lru_crawler crawl all\r\n")
                has_started = self.connection.await_ok("lru_crawler crawl all", "BUSY")
            counters = self.connection.stats()
            if has_started and not number(counters, "lru_crawler_running"):
                return number(counters, "curr_items")
        raise ProtocolError("did not complete a crawl in time")
