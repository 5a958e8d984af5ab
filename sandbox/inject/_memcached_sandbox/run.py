"""What a process knows of its run: which servers stand in for which, and which worker it is."""

from __future__ import annotations

import os
import sys

from . import refusals
from .errors import ProtocolError, RunError

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .protocol import Connection
    from .refusals import Refusal

ANSWER_TIMEOUT = 60.0  # seconds: a busy machine may start many servers at once


class Run:
    """What one process knows of its run. Whom it asks is up to the kinds of it."""

    def __init__(self) -> None:
        self.excluded = set(os.environ.get("MEMCACHED_SANDBOX_RUN_EXCLUDE", "").split())
        # Addresses of aliases that turn out to be memcached ones, or not, when they connect.
        self.unclear: set[str] = set()
        self.guards = bool(os.environ.get("MEMCACHED_SANDBOX_GUARDED"))
        # test or never or, where pytest knows of more, class, module or session.
        self.flushed_after = os.environ.get("MEMCACHED_SANDBOX_RUN_FLUSH", "test")
        self.worker = os.environ.get("MEMCACHED_SANDBOX_WORKER", "")
        self.worker_pid = 0
        self.stand_ins: dict[str, str] = {}  # by the addresses that were asked for
        self.tests_in = 0  # the process that takes refusals, to blame tests for them
        self._refusals: list[Refusal] = []  # those of this process
        self._connections: dict[str, Connection] = {}
        self._connected_in = 0

    def become_worker(self, name: str) -> dict[str, str]:
        """Ask as this worker from now on, and so have the processes that this one starts.

        Return where the addresses that this process knows have moved.
        """
        self.worker_pid = os.getpid()
        self.worker = os.environ["MEMCACHED_SANDBOX_WORKER"] = name
        address = os.environ.get("MEMCACHED_SANDBOX_ADDRESS")
        moved = self._ask([*self.stand_ins.values(), *([address] if address else [])])
        if address:
            os.environ["MEMCACHED_SANDBOX_ADDRESS"] = moved[address]
        self.stand_ins = {main: moved[address] for main, address in self.stand_ins.items()}
        return moved

    def stand_in(self, addresses: Collection[str]) -> dict[str, str]:
        """Return the stand-in's address for each address. Raises RunError."""
        servers = set(self.stand_ins.values())
        unknown = [a for a in addresses if a not in self.stand_ins and a not in servers]
        if unknown:
            answer = self._ask(unknown)
            # An address that was handed to the command is its own stand-in.
            self.stand_ins.update(answer)
        return {address: self.stand_ins.get(address, address) for address in addresses}

    def is_main(self, address: str) -> bool:
        """Whether the address has been asked for, and has a stand-in that is another."""
        return self.stand_ins.get(address, address) != address

    def servers(self) -> set[str]:
        """Return the addresses of the servers that this process uses."""
        address = os.environ.get("MEMCACHED_SANDBOX_ADDRESS")
        return set(self.stand_ins.values()) or ({address} if address else set())

    def flush(self) -> None:
        """Empty the servers of this process. Raises RunError when one cannot be."""
        if self._connected_in != os.getpid():
            self.disconnect()  # what a fork has inherited is its parent's
            self._connected_in = os.getpid()
        addresses = self.servers()
        try:
            self._flush(addresses)
        except (OSError, ProtocolError):
            # A connection may have come to its end since the last time; a server may not.
            self.disconnect()
            try:
                self._flush(addresses)
            except (OSError, ProtocolError) as error:
                raise RunError(f"the sandbox's memcached cannot be emptied: {error}") from error

    def _flush(self, addresses: set[str]) -> None:
        for address in addresses.difference(self._connections):
            from .protocol import Connection  # Many processes of a run use no cache.

            self._connections[address] = Connection(address, ANSWER_TIMEOUT)
        connections = [self._connections[address] for address in addresses]
        for connection in connections:
            connection.send_flush()
        for connection in connections:
            connection.await_flush()

    def disconnect(self) -> None:
        """Close the connections that `flush` has kept."""
        while self._connections:
            _, connection = self._connections.popitem()
            connection.close()

    def take_refusals(self) -> list[Refusal]:
        """Return what this process, and those it has started, were refused since the last time."""
        taken, self._refusals = self._refusals, []
        path = os.environ.get(refusals.VARIABLE)
        return taken + (refusals.take(path) if path else [])

    def report_refusal(self, refusal: Refusal) -> None:
        """Tell the run that a connection to a main memcached was refused."""
        path = os.environ.get(refusals.VARIABLE)
        if path and self.tests_in != os.getpid():
            refusals.append(path, refusal)
        else:
            self._refusals.append(refusal)

    def failed(self, reason: str) -> RunError:
        """Return the error to raise, having told of it."""
        # An application may swallow the exception; the line on stderr it cannot.
        print(f"sandbox: {reason}", file=sys.stderr, flush=True)
        return RunError(reason)

    def _ask(self, addresses: Iterable[str]) -> dict[str, str]:
        """Return the stand-ins of this worker, for main addresses and for those of stand-ins."""
        raise NotImplementedError
