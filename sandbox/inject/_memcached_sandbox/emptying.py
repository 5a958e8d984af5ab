"""Empties servers between two tests, exactly.

What clients sent before is executed first, and then forgotten. What is set afterwards stays. For
this each server must come to rest, which has two roads:

- Where /proc shows the server's threads: all of them sleep in epoll. memcached's epoll is
  level-triggered (libevent's default), so that a thread that sleeps there has no byte left to read,
  and no connection to accept. This holds for any number of threads.
- Elsewhere the server is asked, over a new connection: connections are accepted in their order, and
  served in their order, for as long as they have requests (``-R``). It is at rest once it reads
  nothing but these questions. This is exact with one thread.

Up to memcached 1.6.24, flush_all then forgets what has an older CAS number. Later ones walk the
lists of items, and may pass over some: there the counter curr_items proves the flush.

Not seen: a client that writes on, one that has not read its answers, and what the kernel holds back
for a client over TCP in another program: for 40 ms if TCP_NODELAY is off, and longer after a loss.
"""

from __future__ import annotations

import os
from io import FileIO

from . import clients
from .errors import ProtocolError
from .protocol import Connection, Tally, now, number

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Collection

# The warning about a server that did not come to rest.
RESTLESS = (
    "was flushed before it came to rest: a client writes on, and the next test may find what it "
    "has written"
)

# Seconds to wait until a server is at rest. A client that writes on may keep it from that.
REST_TIMEOUT = 1.0

# Versions from this one on may pass over items in flush_all: items.c, item_flush_expired().
WALKS_LISTS = (1, 6, 25)

# Bytes of the longest name of a function of the kernel: KSYM_NAME_LEN in its kallsyms.h.
LONGEST_NAME = 512

# What stands in place of such a name if the thread runs, or may not be looked at.
UNSEEN = b"0"

# Names the PID namespace of the owner, for processes of the run that may be in another one.
NAMESPACE = "MEMCACHED_SANDBOX_PID_NAMESPACE"


class Emptier:
    """Empties servers over connections that it keeps. A fork makes its own.

    :param timeout: seconds to wait for each answer.
    :param sees_threads: the servers' pids mean the same to this process: they run on this machine.
    """

    def __init__(self, timeout: float, sees_threads: bool = True) -> None:
        self._timeout = timeout
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
        if self._owner != os.getpid():
            self.close()
            self._owner = os.getpid()
            self.tally = Tally()
        has_kept = bool(self._servers)
        try:
            try:
                return self._empty(addresses, crawl)
            except (OSError, ProtocolError):
                if not has_kept:
                    raise
                # A connection may have come to its end since the last time; a server may not.
                self.close()
                return self._empty(addresses, crawl)
        except BaseException:
            self.close()  # The next flush must not take the rest of an answer for its own.
            raise

    def _empty(self, addresses: Collection[str], crawl: bool) -> list[str]:
        for address in addresses:
            if address in self._servers and not self._servers[address].is_intact():
                self._servers.pop(address).close()
            if address not in self._servers:
                self._servers[address] = _Server(
                    address, self._timeout, self._sees_threads, self.tally
                )
        servers = [self._servers[address] for address in addresses]
        deadline = now() + REST_TIMEOUT
        while (held_back := clients.held_back(addresses)) and now() < deadline:
            os.sched_yield()
        rested = [server.comes_to_rest() for server in servers]
        for server in servers:
            server.send_flush()
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


class _Server:
    """Empties one server."""

    def __init__(self, address: str, timeout: float, sees_threads: bool, tally: Tally) -> None:
        self._address = address
        self._timeout = timeout
        self._tally = tally
        self._connection = Connection.to(address, timeout, tally)
        self._files: list[_File] = []
        try:
            counters = self._connection.stats()
            self._walks_lists = self._connection.version >= WALKS_LISTS
            own = pid_namespace()
            if sees_threads and os.environ.get(NAMESPACE, own) == own:
                self._files = _threads(number(counters, "pid"), number(counters, "threads"))
            self.threads = [file.fileno() for file in self._files]
            self._identities = {
                descriptor: _identity(descriptor)
                for descriptor in (self._connection.fileno(), *self.threads)
            }
        except BaseException:
            self._connection.close()
            _close(self._files)
            raise

    def is_intact(self) -> bool:
        """Returns whether its descriptors are open. A test may close all of its process."""
        return all(map(self._owns, self._identities))

    def _owns(self, descriptor: int) -> bool:
        """Returns whether a descriptor has not become that of another file."""
        return _identity(descriptor) == self._identities[descriptor]

    def comes_to_rest(self) -> bool:
        """Waits until the server has executed what clients have sent; returns whether it has."""
        deadline = now() + REST_TIMEOUT
        if self.threads:
            while not all(map(_is_epoll, map(_wait, self.threads))):
                if now() > deadline:
                    return False
                os.sched_yield()
            return True
        try:
            with Connection.to(self._address, self._timeout, self._tally) as connection:
                before = number(connection.stats(), "bytes_read")
                while now() < deadline:
                    read = number(connection.stats(), "bytes_read")
                    if read == before + len(b"stats\r\n"):
                        return True
                    before = read
        except (OSError, ProtocolError):
            pass  # It may have no connection left: the flush tells if it does not serve at all.
        return False

    def send_flush(self) -> None:
        self._connection.send(b"flush_all\r\nstats\r\n" if self._walks_lists else b"flush_all\r\n")

    def await_flush(self, crawl: bool) -> bool:
        """Waits until all items are forgotten; returns whether they are."""
        self._connection.await_ok("flush_all")
        if not self._walks_lists:
            if crawl:
                self._crawl()
            return True
        if "STAT curr_items 0\r" in self._connection.await_stats("stats"):
            return True
        deadline = now() + REST_TIMEOUT
        items = 1
        while items and now() < deadline:
            # A second ahead: an item that was read meanwhile counts as set then.
            self._connection.send(b"flush_all 1\r\n")
            self._connection.await_ok("flush_all 1")
            items = self._crawl()
        self._connection.send(b"flush_all\r\n")  # What is set from now on stays.
        self._connection.await_ok("flush_all")
        return not items

    def _crawl(self) -> int:
        """Makes memcached's crawler free all forgotten items; returns how many are left."""
        deadline = now() + self._timeout
        has_started = False
        while now() < deadline:
            if not has_started:
                # It is BUSY while it crawls for memcached itself.
                self._connection.send(b"lru_crawler crawl all\r\n")
                has_started = self._connection.await_ok("lru_crawler crawl all", "BUSY")
            counters = self._connection.stats()
            if has_started and not number(counters, "lru_crawler_running"):
                return number(counters, "curr_items")
        raise ProtocolError("did not complete a crawl in time")

    def close(self) -> None:
        """Closes what is its own: after a test has closed it, another file may have the number."""
        self._connection.close(is_own=self._owns(self._connection.fileno()))
        for file in self._files:
            if self._owns(file.fileno()):
                file.close()
            else:
                file.__class__ = _LostFile


class _File(FileIO):
    """Closes its descriptor at the latest when nothing refers to it any more."""


class _LostFile(_File):
    """Leaves its descriptor alone: a test has closed it, and another file may have the number."""

    def close(self) -> None:
        """Does nothing."""


def _threads(pid: int, workers: int) -> list[_File]:
    """Opens the files that name what the main thread and the workers of a server wait in.

    A signal handler may raise between any two steps here. A file then closes itself: a descriptor
    would be lost.

    :returns: the main thread's first. None of them if /proc does not show that: not on macOS, and
        not to root without CAP_SYS_PTRACE, as memcached is another user there.
    """
    deadline = now() + REST_TIMEOUT
    while now() < deadline:
        asleep = _asleep(pid)
        if asleep is None:
            break
        if len(asleep) == workers + 1:
            return asleep
        _close(asleep)
        os.sched_yield()
    return []


def _asleep(pid: int) -> list[_File] | None:
    """Opens such a file of each thread that waits in epoll now; None if /proc does not show it."""
    folder = f"/proc/{pid}/task"
    files: list[_File] = []
    is_shown = False
    try:
        # The main thread, which has the process's ID, hands new connections to the others.
        for thread in sorted(os.listdir(folder), key=lambda thread: int(thread) != pid):
            files.append(_File(f"{folder}/{thread}/wchan"))
            function = _wait(files[-1].fileno())
            is_shown = is_shown or function != UNSEEN
            if not _is_epoll(function):
                files.pop().close()
    except OSError:
        is_shown = False
    if not is_shown:
        _close(files)
        return None
    return files


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Returns what identifies an open file; None if there is none."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _close(files: list[_File]) -> None:
    for file in files:
        file.close()


def _wait(descriptor: int) -> bytes:
    """Returns the name of the kernel's function that a thread waits in."""
    return os.pread(descriptor, LONGEST_NAME, 0)


def _is_epoll(function: bytes) -> bool:
    # ep_poll() and do_epoll_wait() in fs/eventpoll.c.
    return function.startswith((b"ep_poll", b"do_epoll"))


def pid_namespace() -> str:
    """Returns what names the PID namespace of this process; "" where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
