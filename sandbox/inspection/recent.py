"""Keeps the last operations of the test that is under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from ..errors import ServerError
from ..server.memcached import server_at
from ..server.trace import Operations, read_logs, traced

if TYPE_CHECKING:
    from ..server import Server
    from ..server.commands import Request
    from ..server.log import Mark

# How many operations are kept.
MOST_OPERATIONS = 20


class RecentOperations:
    """Traces servers while it is open, and keeps the last operations on each."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._traces: dict[str, _Last] = {}

    def follow(self, addresses: Iterable[str]) -> None:
        """Traces these servers from now on, if it does not do so yet.

        :raises ServerError: one of them cannot be traced.
        """
        for address in addresses:
            if address not in self._traces:
                server = server_at(address)
                last = _Last(server)
                self._stack.enter_context(traced(server, last))
                self._traces[address] = last

    def forget(self) -> None:
        """Forgets the operations up to now: another test begins."""
        read_logs()
        for last in self._traces.values():
            last.clear()
            last.total = 0

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """Returns the last operations on each server, one in a line, by the server's address."""
        for address, last in self._traces.items():
            try:
                last.sync()
            except ServerError:  # It may have ended, or this is a fork that does not trace.
                read_logs()
                if not last:
                    continue
            earlier = last.total - len(last)
            lines = [f"... after {earlier:,} others"] if earlier else []
            lines += [*map(str, last)] or ["no operation"]
            yield address, lines + [f"({flaw}: operations may be missing)" for flaw in last.flaws]
            last.flaws.clear()

    def close(self) -> None:
        """Ends the traces."""
        with suppress(ServerError):  # Of a server that has ended, as of one that hangs.
            self._stack.close()


class _Last(Operations):
    """Keeps the last operations only, and how many there were."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.total = 0
        self.flaws: list[str] = []

    def note(self, flaw: str) -> None:
        """Notes why operations may be missing, for a report: a warning could be an error."""
        self.flaws.append(flaw)

    def take(self, events: Iterable[Request | Mark]) -> None:
        before = len(self)
        super().take(events)
        self.total += len(self) - before
        del self[:-MOST_OPERATIONS]
