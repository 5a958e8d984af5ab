"""This process's view of the run: which servers stand in for which, and as which worker it asks."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

    from .wire import Connection

ANSWER_TIMEOUT = 60.0  # seconds: a busy machine may start many servers at once

_current: Run | None = None


class RunError(RuntimeError):
    """The run's sandbox cannot be had; going on would mean to use the main memcached."""


def current() -> Run:
    """Return the one Run of this process."""
    global _current  # noqa: PLW0603
    if _current is None:
        _current = Run()
    return _current


class Run:
    """A client of the control socket, and what it was told."""

    def __init__(self) -> None:
        self.control = os.environ.get("MEMCACHED_SANDBOX_CONTROL", "")
        self.excluded = set(os.environ.get("MEMCACHED_SANDBOX_EXCLUDE", "").split())
        # Addresses of aliases that turn out to be memcached ones, or not, when they connect.
        self.unclear: set[str] = set()
        self.flushes = os.environ.get("MEMCACHED_SANDBOX_FLUSH", "test") != "never"
        self.worker = self._name_of_worker()
        self._stand_ins: dict[str, str] = {}
        self._connections: dict[str, Connection] = {}
        self._connected_in = 0
        self.worker_pid = 0

    @staticmethod
    def _name_of_worker() -> str:
        name = os.environ.get("MEMCACHED_SANDBOX_WORKER", "")
        xdist = os.environ.get("PYTEST_XDIST_WORKER")
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
        # A run of pytest-xdist that is around the whole run does not make us a worker of its.
        if xdist and not name and run != os.environ.get("MEMCACHED_SANDBOX_OUTER_RUN"):
            return f"{run}/{xdist}"
        return name

    def become_worker(self, name: str) -> dict[str, str]:
        """Ask as this worker from now on, and so have the processes that this one starts.

        Return where the addresses that this process knows have moved.
        """
        self.worker_pid = os.getpid()
        self.worker = os.environ["MEMCACHED_SANDBOX_WORKER"] = name
        moved = self._ask([os.environ["MEMCACHED_SANDBOX_ADDRESS"], *self._stand_ins.values()])
        os.environ["MEMCACHED_SANDBOX_ADDRESS"] = moved[os.environ["MEMCACHED_SANDBOX_ADDRESS"]]
        self._stand_ins = {main: moved[address] for main, address in self._stand_ins.items()}
        return moved

    def stand_in(self, addresses: Collection[str]) -> dict[str, str]:
        """Return the stand-in's address for each address. Raises RunError."""
        stand_ins = set(self._stand_ins.values())
        unknown = [a for a in addresses if a not in self._stand_ins and a not in stand_ins]
        if unknown:
            answer = self._ask(unknown)
            # An address that was handed to the command is its own stand-in.
            self._stand_ins.update(answer)
        return {address: self._stand_ins.get(address, address) for address in addresses}

    def is_main(self, address: str) -> bool:
        """Whether the address has been asked for, and has a stand-in that is another."""
        return self._stand_ins.get(address, address) != address

    def flush(self) -> None:
        """Empty the stand-ins of this process. Raises RunError when one cannot be."""
        from .wire import ProtocolError

        if self._connected_in != os.getpid():
            self._connections = {}  # what a fork has inherited is its parent's
            self._connected_in = os.getpid()
        addresses = set(self._stand_ins.values()) or {os.environ["MEMCACHED_SANDBOX_ADDRESS"]}
        try:
            self._flush(addresses)
        except (OSError, ProtocolError):
            # A connection may have come to its end since the last time; a server may not.
            self._connections = {}
            try:
                self._flush(addresses)
            except (OSError, ProtocolError) as error:
                raise RunError(f"the sandbox's memcached cannot be emptied: {error}") from error

    def _flush(self, addresses: set[str]) -> None:
        from .wire import Connection

        for address in addresses.difference(self._connections):
            self._connections[address] = Connection(address, ANSWER_TIMEOUT)
        connections = [self._connections[address] for address in addresses]
        for connection in connections:
            connection.send_flush()
        for connection in connections:
            connection.await_flush()

    def report_refusal(self, address: str, alias: str, file: str, line: int) -> None:
        """Tell the run that a connection to a main memcached was refused."""
        if self.control:
            self._request({"refused": {"address": address, "alias": alias, "at": f"{file}:{line}"}})

    def _ask(self, addresses: Iterable[str]) -> dict[str, str]:
        answer = self._request({"stand_in": list(addresses), "worker": self.worker})
        stand_ins: dict[str, str] = answer["stand_ins"]
        return stand_ins

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        import json
        import socket

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(ANSWER_TIMEOUT)
                connection.connect(self.control)
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    answer: dict[str, Any] = json.loads(lines.readline())
        except FileNotFoundError as error:
            raise self._failed(
                f"the sandbox of this run has ended: nobody listens at {self.control}; "
                "start another, or 'sandbox stop' if it was that of a shell"
            ) from error
        except (OSError, ValueError) as error:
            raise self._failed(f"the run's sandbox does not answer: {error}") from error
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def _failed(self, reason: str) -> RunError:
        # An application may swallow the exception; the line on stderr it cannot.
        print(f"sandbox: {reason}", file=sys.stderr, flush=True)
        return RunError(reason)
