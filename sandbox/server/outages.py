"""Breaks servers on purpose while a context lasts, and mends them.

Their owner does it. It is memcached's parent, and holds the port of each: nobody else can take it
while the server is down. The other processes of a run ask it to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import ProtocolError, SandboxError, ServerError
from ..inject import backends, protocol
from ..registry.directories import OUTAGES
from ..system import deferred

if TYPE_CHECKING:
    from . import Server
    from .process import MemcachedProcess

DOWN, HUNG, FULL = OUTAGES

# The counters of a process, as `stats` and `stats slabs` list them.
Counters = dict[str, str]

# Has memcached refuse what it has no memory for, in place of evicting. All items take the largest
# chunk, of half a MB (slab_chunk_max), so that a few fill it.
REFUSES = ("-M", "-n500000")

# MB of a server that is to be full: memcached takes no less than two items of the largest size.
FEWEST_MB = 2
MB = 1024 * 1024

# How many items may fit into a server that is to be full. In 2 MB there are 4.
MOST_ITEMS = 1_000

# Of the items that fill it.
KEY = "memcached-sandbox"

# Seconds that a server may take to answer after it has hung, or before it is killed.
ANSWER_TIMEOUT = 5.0

# What this process has done to servers in its current test, by address: for reports of failures.
events: list[tuple[str, str]] = []


class BrokenServers(AbstractContextManager[None]):
    """Has servers in an outage while its body lasts; see `Server.down` and its like.

    :param kind: DOWN, HUNG or FULL.
    """

    def __init__(self, servers: Sequence[Server], kind: str) -> None:
        self._servers = servers
        self._kind = kind
        self._begun = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as begun:
            for server in self._servers:
                events.append((server.address, f"was {self._kind} for a while"))
                with deferred():  # An interrupt waits until it is known how to mend the server.
                    begun.callback(server._begin_outage(self._kind))
            if self._kind == FULL:
                backends.renew()  # The server was started anew, and is to answer.
            self._begun.callback(begun.pop_all().close)

    def __exit__(self, *_: object) -> None:
        with deferred():
            try:
                self._begun.close()
            finally:
                backends.renew()


def restart(servers: Sequence[Server]) -> None:
    """Kills servers, and starts them anew; see `Server.restart`."""
    backends.are_stale = True
    for server in servers:
        events.append((server.address, "was restarted"))
        server._restart()


def mend(process: MemcachedProcess) -> bool:
    """Ends the outage of a server; returns whether there was one.

    :raises ServerError: it cannot be started again.
    """
    with deferred(), process.lock:
        was_broken = process.outage is not None and process.outage.end()
    if was_broken:
        backends.renew()
    return was_broken


def begin_outage(process: MemcachedProcess, kind: str, max_item_size: int) -> Callable[[], bool]:
    """Begins an outage of a server; returns the function that ends it, and whether it had to.

    :raises ServerError: it cannot be had, or the server is in one. It is as it was then.
    :raises OSError: the server does not answer.
    :raises ProtocolError: it does not answer as memcached does.
    """
    with deferred(), process.lock:
        _check(process, needs_port=kind != HUNG)
        process.outage = Outage(process, kind, max_item_size)
        try:
            process.outage.begin()
        except BaseException:
            process.outage = None
            raise
        return process.outage.end


def restart_process(process: MemcachedProcess) -> None:
    """Kills a server, and starts it anew.

    :raises ServerError: that cannot be done.
    :raises OSError: the server does not answer.
    :raises ProtocolError: it does not answer as memcached does.
    """
    with deferred(), process.lock:
        begin_outage(process, DOWN, 0)()


class Outage:
    """Has a server of this process down, hung or full until its end.

    :param kind: DOWN, HUNG or FULL.
    :param max_item_size: of the server, in bytes.
    """

    def __init__(self, process: MemcachedProcess, kind: str, max_item_size: int) -> None:
        self.kind = kind
        self.has_failed = False  # to end
        self._process = process
        self._memory_mb = max(FEWEST_MB, 2 * -(-max_item_size // MB))
        self._arguments: list[str] = []
        self._held: list[protocol.Connection] = []  # which fill it
        self._own: Counters = {}  # what these have counted

    def begin(self) -> None:
        """Breaks the server.

        :raises ServerError: it cannot be broken so, and was mended if that can be done.
        :raises OSError: it does not answer.
        :raises ProtocolError: it does not answer as memcached does.
        """
        if self.kind == HUNG:
            self._hang()
        else:
            self._kill()

    def _hang(self) -> None:
        process = self._process
        with _explained(process):
            process.record(self.kind)
        try:
            process.pause()
        except OSError as error:
            process.record("")
            raise ServerError(
                f"memcached at {process.address} cannot be stopped by SIGSTOP: {error.strerror}"
            ) from error

    def _kill(self) -> None:
        """Kills the server and, if it is to be full, starts one that is."""
        process = self._process
        counters, self._arguments = _read(process)
        with _explained(process):
            process.record(self.kind)
        process.ended.append(counters)
        process.kill()
        if self.kind == FULL:
            try:
                further = [*self._arguments, *REFUSES, f"-m{self._memory_mb}"]
                process.start_again(further, is_full=True)
                self._fill()
            except (OSError, SandboxError) as error:
                self.release()
                self._start_again()
                raise ServerError(
                    f"memcached at {process.address} cannot be made full: {error}"
                ) from error

    def end(self) -> bool:
        """Mends the server; returns whether it had to.

        :raises ServerError: it cannot be started again.
        """
        process = self._process
        with deferred(), process.lock:
            if process.outage is not self or not process.is_mine:
                return False
            if self.kind == FULL:
                self.release()
                with suppress(OSError, ProtocolError):  # The test may have killed it.
                    process.ended.append(self._counters_of_full())
            if self.kind == HUNG:
                process.resume()
            if self.kind == HUNG and (_answers(process) or not process.has_ended()):
                with _explained(process):
                    process.record("")
            else:
                try:
                    self._start_again()
                except BaseException:
                    self.kind, self.has_failed = DOWN, True  # The next `mend` tries again.
                    raise
            process.outage = None
            process.outages += 1
            return True

    def _start_again(self) -> None:
        with _explained(self._process):
            self._process.kill()
            self._process.start_again(self._arguments)
            self._process.record("")

    def _fill(self) -> None:
        """Begins to set items, and never ends it, until there is no memory for another one.

        A flush frees none of these, as it would free items that are set.
        """
        with self._connected() as connection:
            while connection.set(KEY):
                connection.delete(KEY)
                if len(self._held) == MOST_ITEMS:
                    raise ProtocolError(f"has taken {MOST_ITEMS:,} items, and takes more")
                self._held.append(self._connected())
                self._held[-1].send(f"set {KEY} 0 0 1\r\n".encode())
            self._own = connection.stats()

    def release(self) -> None:
        """Closes the connections that fill the server."""
        while self._held:
            self._held.pop().close()

    def _connected(self) -> protocol.Connection:
        connection = protocol.Connection.to(self._process.address, ANSWER_TIMEOUT)
        connection.send(protocol.MARK + b"\r\n")
        connection.await_mark()
        return connection

    def _counters_of_full(self) -> Counters:
        """Returns the counters of a full server, without what has filled it."""
        counters, self._arguments = _read(self._process)
        counts = {
            name: str(protocol.number(counters, name) - protocol.number(self._own, name))
            for name in protocol.OPERATIONS
        }
        return {**counters, **counts, "total_malloced": "0"}


def _check(process: MemcachedProcess, needs_port: bool) -> None:
    """Checks whether an outage can begin.

    :raises ServerError: it cannot.
    """
    place = f"memcached at {process.address}"
    if not process.is_mine:
        raise ServerError(
            f"{place} belongs to process {process.owner}, and only that one can break or mend it; "
            "under 'sandbox exec' each process of the run can"
        )
    if process.outage is not None:
        raise ServerError(f"{place} is {process.outage.kind} already: end that outage first")
    if reason := process.exit_reason():
        raise ServerError(f"{place} {reason}")
    if needs_port and not process.holds_port:
        raise ServerError(
            f"{place} cannot be started anew there: on this system no port can be held for it; "
            "let it listen on a Unix socket, by unix_socket=True or MEMCACHED_SANDBOX_UNIX=1"
        )


@contextmanager
def _explained(process: MemcachedProcess) -> Iterator[None]:
    """Raises ServerError if a server cannot be started again."""
    try:
        yield
    except ServerError:
        raise
    except SandboxError as error:
        raise ServerError(f"memcached at {process.address} cannot be mended: {error}") from error


def _read(process: MemcachedProcess) -> tuple[Counters, list[str]]:
    """Returns the counters of a server, and the arguments by which the next one logs as it does.

    :raises OSError: it does not answer.
    :raises ProtocolError: it does not answer as memcached does.
    """
    with protocol.Connection.to(process.address, ANSWER_TIMEOUT) as connection:
        counters = {**connection.stats(), **connection.stats("slabs")}
        logs = protocol.number(connection.stats("settings"), "verbosity") > 1
    return counters, ["-vv"] if logs and "-vv" not in process.command else []


def _answers(process: MemcachedProcess) -> bool:
    """Returns whether a server goes on."""
    try:
        with protocol.Connection.to(process.address, ANSWER_TIMEOUT) as connection:
            return connection.stats().get("pid") == str(process.pid)
    except (OSError, ProtocolError):
        return False
