"""One memcached process of our own, from its start to its end."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import ServerError, StartError, explain_limit
from . import NOT_RUNNING, Server
from .binary import find_memcached
from .options import check
from .process import MemcachedProcess

if TYPE_CHECKING:
    from typing_extensions import Self

# How long one may take to die whose connection was closed, in seconds.
DYING_TIME = 0.2


class Memcached(Server):
    """A real memcached that lives as long as this object, and no longer than this process.

    Use it as a context manager, or call `start` and `stop`. It listens on the loopback interface
    only, on a port that the kernel chooses, and is killed when this process ends, by whatever
    end. A fork of this process may use it, but neither ends it nor keeps it alive.

    memory_mb: its cap in MB; when it is full, memcached evicts.
    max_item_size: the largest value it takes, in bytes, a multiple of 524288; None for 1 MB.
    threads: its worker threads.
    max_connections: how many clients may be connected at a time.
    unix_socket: listen on a Unix socket, which keeps other users of this machine out.
    binary: which memcached to run: a path, or a name on PATH. None for
        ``$MEMCACHED_SANDBOX_BINARY``, or else the first one on PATH and in the usual folders.
    args: further arguments for memcached, such as ``["-o", "no_modern"]``.
    start_timeout: how long it may take to come up, in seconds.

    Raises OptionError when an option is out of range; nothing has happened then.
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
    ) -> None:
        super().__init__(None)
        check(memory_mb, max_item_size, threads, max_connections, args, start_timeout)
        self.memory_mb = memory_mb
        self.unix_socket = unix_socket
        self.command: Sequence[str] = ()
        self._binary = binary
        self._arguments = [f"-m{memory_mb}", f"-t{threads}", f"-c{max_connections}"]
        if max_item_size is not None:
            self._arguments.append(f"-I{max_item_size}")
        self._arguments += args
        self._start_timeout = start_timeout
        self._process: MemcachedProcess | None = None
        self._finalizer: weakref.finalize[..., Memcached] | None = None
        self._deadline = 0.0

    def start(self) -> None:
        """Start memcached and wait until it is ready.

        What killed runs have left is removed first. Raises BinaryError, StartError and, when there
        is no place for its files, SandboxError; nothing is left running then, and no file.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start memcached without waiting until it is ready, so that several can come up at once.

        Raises what `start` raises, and ServerError when it was started already.
        """
        if self._process is not None:
            raise ServerError("this server was started already: stop() it first")
        with _limits_explained():
            self._launch()

    def _launch(self) -> None:
        self._deadline = time.monotonic() + self._start_timeout
        command = [find_memcached(self._binary), *self._arguments]
        process = MemcachedProcess(command, self.unix_socket)
        self._finalizer = weakref.finalize(self, process.end)
        self._finalizer.atexit = False  # the process sees to that
        self._process = process
        try:
            process.launch(self.memory_mb)
        except BaseException:
            self.stop()
            raise
        self.command = process.command

    def wait(self) -> None:
        """Wait until the launched memcached is ready and has proved to be the one we started.

        Raises StartError; nothing is left running then, and no file.
        """
        if self._process is None:
            raise ServerError("there is nothing to wait for: launch() the server first")
        try:
            with _limits_explained():
                self._address = self._process.wait_for_address(self._deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill memcached, wait for its end and remove its files. Does nothing when none runs.

        By SIGKILL: a cache has nothing to save, and on SIGTERM memcached takes a second to end.
        """
        if self._process is not None:
            self._process.end()
            if self._finalizer is not None:
                self._finalizer.detach()
        self._finalizer = self._process = self._address = None

    @property
    def host(self) -> str | None:
        """The IP address it listens at; None on a Unix socket."""
        address = self.address
        return None if self.unix_socket else address.rpartition(":")[0]

    @property
    def port(self) -> int | None:
        """The TCP port it listens at; None on a Unix socket."""
        address = self.address
        return None if self.unix_socket else int(address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The pid of the memcached process."""
        return self._running().pid

    @property
    def directory(self) -> str:
        """The server's directory, for this user alone; it is removed with the server."""
        return self._running().directory.path

    def death(self) -> str | None:
        """Return how memcached died by itself, with its last words, or None while it lives."""
        return self._running().death()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> MemcachedProcess:
        if self._process is None:
            raise ServerError(NOT_RUNNING)
        return self._process

    def _fate(self, error: Exception) -> str | None:
        # A dying process loses its connections one by one, and the end may not be known yet.
        return self._running().death(0 if isinstance(error, TimeoutError) else DYING_TIME)


@contextmanager
def _limits_explained() -> Iterator[None]:
    """Raise StartError for a limit of this machine that is reached anywhere within a start.

    Even an import may be the first to need a file descriptor: that of warnings, for instance, in
    os.get_exec_path() of Python 3.14.
    """
    try:
        yield
    except OSError as error:
        if (reached := explain_limit(error)) is None:
            raise
        raise StartError(f"memcached cannot be started: {reached}") from error
