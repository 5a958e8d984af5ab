"""Runs one memcached process, from its start to its end."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import ServerError
from ..system import deferred, no_fork
from . import NOT_RUNNING, Server
from .binary import find_memcached
from .options import check
from .process import DYING_TIME, MemcachedProcess, limits_explained

if TYPE_CHECKING:
    from _memcached_sandbox.protocol import Tally
    from typing_extensions import Self

    from ..registry.directories import ControlDirectory
    from .outages import Counters

# memcached executes that many requests of a connection before those of the next one: a flush that
# asks whether the server is at rest relies on it. The default is 20.
EVERY_REQUEST = "-R1000000"


class Memcached(Server):
    """Runs a real memcached as long as this object lives, and no longer than this process.

    Use it as a context manager, or call `start` and `stop`. It listens on the loopback interface
    only, on a port that the kernel chooses, and is killed when this process ends, by whatever
    end. A fork of this process may use it, but neither ends it nor keeps it alive.

        with Memcached(memory_mb=32) as server:
            server.client().set("key", "value")

    :param memory_mb: its cap in MB; when it is full, memcached evicts.
    :param max_item_size: the largest value it takes, in bytes, a multiple of 524288; None for 1 MB.
    :param threads: its worker threads.
    :param max_connections: how many clients may be connected at a time.
    :param unix_socket: listen on a Unix socket, which keeps other users of this machine out.
    :param binary: the memcached to run: a path, a name on PATH, or a suite of ``sandbox install``.
        None for ``$MEMCACHED_SANDBOX_BINARY``, or else the first one found.
    :param args: further arguments for memcached, such as ``["-f", "1.1"]``.
    :param start_timeout: seconds to wait until it is ready.
    :param crawl: let `flush` free the memory of items as well, so that ``stats cachedump`` does not
        list them. It costs 0.3 ms for 10 items, 12 ms for 10,000 (memcached 1.6.18). From 1.6.25 on
        each flush does so.
    :raises OptionError: an option is out of range; nothing has happened then.
    """

    __module__ = "sandbox"  # where its users find it

    def __init__(
        self,
        *,
        memory_mb: int = 64,
        max_item_size: int | None = None,
        threads: int = 1,
        max_connections: int = 1024,
        unix_socket: bool = False,
        binary: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        start_timeout: float = 5.0,
        crawl: bool = False,
    ) -> None:
        super().__init__(None)
        check(
            {
                "memory_mb": memory_mb,
                "max_item_size": max_item_size,
                "threads": threads,
                "max_connections": max_connections,
                "unix_socket": unix_socket,
                "binary": binary,
                "args": args,
                "start_timeout": start_timeout,
                "crawl": crawl,
            }
        )
        self.memory_mb = memory_mb
        self.threads = threads
        self.unix_socket = unix_socket
        self.command: Sequence[str] = ()
        self.control_directory: ControlDirectory | None = None  # that of its run, if it has one
        # Has it log all operations from its start on, and is called when it is ready.
        self.follow_log: Callable[[Memcached], None] | None = None
        self._binary = binary
        self._arguments = [f"-m{memory_mb}", f"-t{threads}", f"-c{max_connections}", EVERY_REQUEST]
        self._max_item_size = max_item_size or 0
        if max_item_size is not None:
            self._arguments.append(f"-I{max_item_size}")
        self._arguments += args
        self._start_timeout = start_timeout
        self._crawl = crawl
        self._process: MemcachedProcess | None = None
        self._finalizer: weakref.finalize[..., Memcached] | None = None

    def start(self) -> None:
        """Starts memcached and waits until it is ready.

        Stale servers of killed runs are removed. After an error no process is left, and no file.

        :raises BinaryError: there is no memcached, or it cannot be executed.
        :raises StartError: it was not ready in time, or is not a memcached.
        :raises SandboxError: there is no place for its files.
        """
        was_started = self._process is not None
        try:
            self.launch()
            self.wait()
        except BaseException:
            if not was_started:
                self.stop()  # Ctrl-C may have come between the two.
            raise

    def launch(self) -> None:
        """Starts memcached without waiting until it is ready, so that several can come up at once.

        :raises ServerError: it was started already.
        :raises SandboxError: as `start` does.
        """
        if self._process is not None:
            raise ServerError("this server was started already: stop() it first")
        with limits_explained():
            self._launch()

    def _launch(self) -> None:
        command = [*find_memcached(self._binary), *self._arguments]
        if self.follow_log is not None:
            command.append("-vv")
        with deferred(), no_fork:
            process = MemcachedProcess(
                command,
                self.memory_mb,
                self.unix_socket,
                self.control_directory,
                self._start_timeout,
            )
            self._finalizer = weakref.finalize(self, process.end)
            self._finalizer.atexit = False  # the reaper ends it when the interpreter is gone
            self._process = process
            _started.add(self)
        self.command = process.command

    def wait(self) -> None:
        """Waits until the launched memcached is ready, and has proved to be the one.

        :raises StartError: as `start` does; no process is left then, and no file.
        """
        if self._process is None:
            raise ServerError("there is nothing to wait for: launch() the server first")
        try:
            with limits_explained():
                self._address = self._process.wait_for_address()
            if self.follow_log is not None:
                self.follow_log(self)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills memcached, waits for its end and removes its files; does nothing if none runs.

        By SIGKILL: a cache has nothing to save, and on SIGTERM memcached takes a second to end.
        """
        with deferred():
            if self._process is not None and self._finalizer is not None:
                self._process.end()
                self._finalizer.detach()
            self._finalizer = self._process = self._address = self._pid_and_threads = None

    @property
    def asked(self) -> Tally | None:
        """What its start has asked it; None where the kernel has told all."""
        return self._process.asked if self._process else None

    @property
    def host(self) -> str | None:
        """The IP address it listens at; None on a Unix socket."""
        from ..inject import address

        return address.Address(self.address).host or None

    @property
    def port(self) -> int | None:
        """The TCP port it listens at; None on a Unix socket."""
        from ..inject import address

        port = address.Address(self.address).port
        return int(port) if port else None

    @property
    def pid(self) -> int:
        """The pid of the memcached process: the last one while it is down."""
        return self._running().pid

    @property
    def directory(self) -> str:
        """The server's directory, for this user alone; it is removed with the server."""
        return self._running().directory.path

    def _begin_outage(self, kind: str) -> Callable[[], bool]:
        from .outages import begin_outage

        with self._explained():
            return begin_outage(self._running(), kind, self._max_item_size)

    def _restart(self) -> None:
        from .outages import restart_process

        with self._explained():
            restart_process(self._running())

    def mend(self) -> bool:
        """Ends the outage that the server is in; returns whether it was in one.

        :raises ServerError: it cannot be started again.
        """
        from .outages import mend

        return self._process is not None and mend(self._process)

    @property
    def outage(self) -> str:
        """The outage that the server is in: "down", "hung" or "full"; "" if it is in none."""
        outage = None if self._process is None else self._process.outage
        return "" if outage is None else outage.kind

    @property
    def outages(self) -> int:
        """How many outages it was in."""
        return self._running().outages

    @property
    def ended(self) -> list[Counters]:
        """The counters of its earlier processes, which outages have ended."""
        return self._running().ended

    def exit_reason(self) -> str | None:
        """Returns how memcached ended by itself, with its last output, or None while it runs."""
        return self._running().exit_reason()

    death = exit_reason

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _sees_threads(self) -> bool:
        return True

    def _log_path(self) -> str:
        return self._running().directory.output

    def _running(self) -> MemcachedProcess:
        if self._process is None:
            raise ServerError(NOT_RUNNING)
        return self._process

    def _explain(self, error: Exception) -> str | None:
        # A dying process loses its connections one by one, and the end may not be known yet.
        patience = 0 if isinstance(error, TimeoutError) else DYING_TIME
        return self._running().exit_reason(patience) or super()._explain(error)


# The servers that this process has started.
_started: weakref.WeakSet[Memcached] = weakref.WeakSet()


def servers_of_process() -> dict[str, Server]:
    """Returns the servers that run in this process, by address."""
    return {server._address: server for server in [*_started] if server._address is not None}


def server_at(address: str) -> Server:
    """Returns the server of this process at an address, or else one that knows no more than it."""
    return servers_of_process().get(address) or Server(address)
