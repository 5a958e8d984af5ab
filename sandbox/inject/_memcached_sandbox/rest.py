"""Waits until a server is at rest: until it has executed all that clients have sent.

There are two roads:

- Where /proc shows the server's threads: all of them sleep in epoll. memcached's epoll is
  level-triggered (libevent's default), so that a thread that sleeps there has no byte left to read,
  and no connection to accept. This holds for any number of threads.
- Elsewhere the server is asked, over a new connection: connections are accepted in their order, and
  served in their order, for as long as they have requests (``-R``). It is at rest once it reads
  nothing but these questions. This is exact with one thread.

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

    from typing_extensions import Self

# Seconds to wait until a server is at rest. A client that writes on may keep it from that.
REST_TIMEOUT = 1.0

# Bytes of the longest name of a function of the kernel: KSYM_NAME_LEN in its kallsyms.h.
LONGEST_NAME = 512

# What stands in place of such a name if the thread runs, or may not be looked at.
UNSEEN = b"0"

# Names the PID namespace of the owner, for processes of the run that may be in another one.
NAMESPACE = "MEMCACHED_SANDBOX_PID_NAMESPACE"


class WatchedServer:
    """Connects to a server, and sees when it is at rest. Use it as a context manager.

    :param timeout: seconds to wait for each answer.
    :param sees_threads: the server's pid means the same to this process: it runs on this machine.
    :param tally: where to count its connections.
    :param process: its pid, and how many worker threads it has; None to ask for them.
    :raises OSError: it cannot be reached.
    :raises ProtocolError: it does not answer as memcached does.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        sees_threads: bool,
        tally: Tally,
        process: tuple[int, int] | None = None,
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._tally = tally
        self.connection = Connection.to(address, timeout, tally)
        self._files: list[_File] = []
        try:
            own = pid_namespace()
            sees_threads = sees_threads and os.environ.get(NAMESPACE, own) == own
            if process is not None and sees_threads:
                self._files = _threads(*process)
            if process is None or not self._files:  # It may have been started anew.
                process = self._ask()
                self._files = _threads(*process) if sees_threads else []
            self.process = process
            self.threads = [file.fileno() for file in self._files]
            self._identities = {
                descriptor: identity(descriptor)
                for descriptor in (self.connection.fileno(), *self.threads)
            }
        except BaseException:
            self.connection.close()
            _close(self._files)
            raise

    def _ask(self) -> tuple[int, int]:
        counters = self.connection.stats()
        return number(counters, "pid"), number(counters, "threads")

    def is_intact(self) -> bool:
        """Returns whether its descriptors are open. A test may close all of its process."""
        return all(map(self._owns, self._identities))

    def _owns(self, descriptor: int) -> bool:
        """Returns whether a descriptor has not become that of another file."""
        return identity(descriptor) == self._identities[descriptor]

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
            pass  # It may have no connection left: what follows tells if it does not serve at all.
        return False

    def close(self) -> None:
        """Closes what is its own: after a test has closed it, another file may have the number."""
        self.connection.close(is_own=self._owns(self.connection.fileno()))
        for file in self._files:
            if self._owns(file.fileno()):
                file.close()
            else:
                file.__class__ = _LostFile

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def await_clients(addresses: Collection[str]) -> set[str]:
    """Waits until the kernel holds nothing back that clients of this process have sent to servers.

    :returns: those for which it still does.
    """
    deadline = now() + REST_TIMEOUT
    while (held_back := clients.held_back(addresses)) and now() < deadline:
        os.sched_yield()
    return held_back


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


def identity(descriptor: int) -> tuple[int, int] | None:
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
