"""One memcached process of our own, from its start to its end."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .binary import find_memcached
from .errors import ServerError
from .options import check
from .process import MemcachedProcess

if TYPE_CHECKING:
    from pymemcache.client.base import Client
    from typing_extensions import Self

    from .inject import wire

# How long a server that runs may take to answer, in seconds.
ANSWER_TIMEOUT = 5.0

# How long one may take to die whose connection was closed, in seconds.
DYING_TIME = 0.2


class Memcached:
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
        self._address: str | None = None

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
    def address(self) -> str:
        """Where it listens, as Django's LOCATION spells it: ``host:port`` or ``unix:/path``.

        Raises ServerError when it does not run, as everything below does.
        """
        if self._address is None:
            raise ServerError("this server does not run: start() it, or use it in a with statement")
        return self._address

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

    def client(self) -> Client:
        """Return a new connected pymemcache Client; closing it is up to you."""
        from pymemcache.client.base import Client

        # Without a delay: a get after a set that is not answered would wait 40 ms for the kernel.
        client = Client(
            self.address, timeout=ANSWER_TIMEOUT, connect_timeout=ANSWER_TIMEOUT, no_delay=True
        )
        with self._explained():
            client.version()
        return client

    def flush(self) -> None:
        """Forget every item, at once and exactly: what is set from now on stays."""
        with self._connection() as connection:
            connection.send_flush()
            connection.await_flush()

    def stats(self, group: str = "") -> dict[str, str]:
        """Return memcached's counters as ``stats``, or ``stats GROUP``, lists them.

        Nobody else uses this server, so they are exact. doc/protocol.txt in memcached's source
        explains each.
        """
        with self._connection() as connection:
            return connection.stats(group)

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

    def __repr__(self) -> str:
        return f"<Memcached {self._address or 'not running'}>"

    def _running(self) -> MemcachedProcess:
        if self._process is None:
            raise ServerError("this server does not run: start() it, or use it in a with statement")
        return self._process

    @contextmanager
    def _connection(self) -> Iterator[wire.Connection]:
        from .inject import wire

        address = self.address
        with self._explained(), wire.Connection(address, ANSWER_TIMEOUT) as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a connection raises into an error that tells what became of the server."""
        from .inject import wire

        try:
            yield
        except (OSError, wire.ProtocolError) as error:
            # A dying process loses its connections one by one, and the end may not be known yet.
            patience = 0 if isinstance(error, TimeoutError) else DYING_TIME
            death = self._running().death(patience)
            fate = death or f"does not answer: {error or 'no word in time'}"
            raise ServerError(f"memcached at {self._address} {fate}") from error
