"""Traces the operations of clients by the log of their server.

Each process that traces a server locks the server's log from the place where it will read next. So
the kernel knows the tracers, and drops the locks of killed ones. The part that all have read is cut
off between tests. The last one switches the log off.
"""

from __future__ import annotations

import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from ..errors import ServerError
from ..inject import protocol, rest, run
from ..system import deferred
from .commands import Request
from .keys import name_of_key
from .log import LogReader, Mark
from .log_file import cut, lock_alone, move_lock, open_log
from .operations import Operation, operation_of
from .warn import warn_user

if TYPE_CHECKING:
    from . import Server
    from .memcached import Memcached

# Bytes of the log to read at a time: a line may be a get of a thousand keys.
CHUNK = 256 * 1024


class Follower(Protocol):
    """Takes what is read in the log of a server."""

    def take(self, events: Iterable[Request | Mark]) -> None:
        """Takes what clients and this package have done, in order."""

    def note(self, flaw: str) -> None:
        """Takes why operations may be missing."""


class Operations(list[Operation]):
    """Lists the operations of a trace, in the order in which memcached executed them.

    Of a server with several threads that is the order for each connection only. If these threads
    write at the same time, lines of its log mix: a RuntimeWarning tells how many. All operations
    are kept, at some 0.2 KB each.
    """

    __module__ = "sandbox"  # where its users find it

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._address = server.address
        self._flaws: list[str] = []

    def sync(self) -> None:
        """Adds the operations up to now, while the trace lasts.

        :raises ServerError: the trace has ended, or the server does not answer.
        """
        sync(self._server, self)
        self._warn()

    def take(self, events: Iterable[Request | Mark]) -> None:
        """Adds what was read in the log."""
        name_of = name_of_key(self._address)
        self += (operation_of(event, name_of) for event in events if isinstance(event, Request))

    def note(self, flaw: str) -> None:
        """Notes why operations may be missing."""
        self._flaws.append(flaw)

    def _warn(self) -> None:
        flaws, self._flaws = self._flaws, []
        for flaw in flaws:
            warn_user(f"{flaw}: operations may be missing")

    def __reduce__(self) -> tuple[type[list[Operation]], tuple[list[Operation]]]:
        """Makes copies plain lists."""
        return list, ([*self],)


@contextmanager
def trace(server: Server) -> Iterator[Operations]:
    """Traces while its body lasts; see `Server.trace`."""
    operations = Operations(server)
    with traced(server, operations):
        yield operations
    operations._warn()


@contextmanager
def traced(server: Server, follower: Follower) -> Iterator[None]:
    """Hands a follower what is read in the log of a server while its body lasts."""
    try:
        # An interrupt waits: it would leave the server logging.
        with deferred(), _lock:
            _Log.of(server).begin(server, follower)
        yield
        _end(server, follower)
    except BaseException:
        with suppress(ServerError):  # What has failed before matters more.
            _end(server, follower)  # An interrupt may have come just before it.
        raise


def sync(server: Server, follower: Follower) -> None:
    """Reads the log up to now, for a follower by `traced`.

    :raises ServerError: the trace has ended, or the server does not answer.
    """
    with deferred(), _lock:
        if (log := _log_of(follower)) is None:
            raise ServerError("this trace has ended, or belongs to the parent of this process")
        log.read_up_to_now(server)


def follow(server: Memcached, follower: Follower) -> None:
    """Reads the log of a server that is logged from its start on, until `unfollow`.

    :raises ServerError: it cannot be read.
    """
    with deferred(), _lock:
        _Log.of(server, from_start=True).followers.append(follower)


def unfollow(server: Memcached, follower: Follower) -> None:
    """Hands a follower the rest of a log, and no more; does nothing in a fork."""
    with deferred(), _lock:
        if (log := _log_of(follower)) is not None:
            log.end_following(follower, server.threads)


def read_logs() -> None:
    """Reads all that is in the logs of this process, and cuts off what each process has read."""
    for log in [*_logs.values()]:
        with deferred(), _lock:
            log.read_between_tests()


def _end(server: Server, follower: Follower) -> None:
    """Ends a trace, if this process is no fork of the one that has begun it.

    :raises ServerError: the server does not answer, but may be running.
    """
    with deferred(), _lock:
        if (log := _log_of(follower)) is not None:
            log.end(server, follower)


class _Log:
    """Reads the log of one server for all traces of this process."""

    def __init__(self, path: str, address: str) -> None:
        self.path = path
        self.followers: list[Follower] = []
        self._address = address
        self._reader = LogReader()
        self._descriptor = open_log(path)
        self._identity = rest.identity(self._descriptor)
        self._position = 0

    @classmethod
    def of(cls, server: Server, from_start: bool = False) -> _Log:
        """Returns the log of a server, opened and locked.

        :raises ServerError: this run did not start it.
        """
        path = server._log_path()
        if path not in _logs:
            log = cls(path, server.address)
            try:
                move_lock(log._descriptor, 0)
                if not from_start:
                    log._position = os.fstat(log._descriptor).st_size
            except BaseException:
                log.close()
                raise
            _logs[path] = log
        return _logs[path]

    def begin(self, server: Server, follower: Follower) -> None:
        """Begins a trace.

        :raises ServerError: the server does not answer, or does not log.
        """
        try:
            self.read_up_to_now(server)
        except BaseException:
            if not self.followers:
                with suppress(ServerError), server._connection() as connection:
                    self._switch_off(connection)
            self._close_if_unused()
            raise
        self.followers.append(follower)

    def end(self, server: Server, follower: Follower) -> None:
        """Ends a trace, and closes the log if it was the last one of this process.

        :raises ServerError: the server does not answer, but may be running.
        """
        try:
            self.read_up_to_now(server, ends=follower)
        except ServerError as error:
            # What a server had executed when it ended is in the log.
            self._read(None)
            self._deliver(all_answered=True)
            has_ended = error.__cause__ is not None or server._address is None
            if not has_ended or isinstance(error.__cause__, TimeoutError):
                raise
        finally:
            self._drop(follower)

    def read_up_to_now(self, server: Server, ends: Follower | None = None) -> None:
        """Reads the log up to now, once the server is at rest.

        :param ends: a trace that ends now. Its server stops logging if no other one is left.
        :raises ServerError: it does not answer, or does not log.
        """
        if server._log_path() != self.path:
            raise ServerError(f"memcached at {self._address} was started anew while it was traced")
        mark = protocol.MARK + b" #" + os.urandom(6).hex().encode()
        with server._at_rest() as (connection, problem):
            # A client may have switched the log off.
            connection.send(b"%b\r\nverbosity 2\r\n%b\r\n" % (protocol.MARK, mark))
            connection.await_mark()
            connection.await_ok("verbosity 2")
            connection.await_mark()
            if not self._read(mark):
                raise ServerError(
                    f"memcached at {self._address} cannot be traced: it does not print into "
                    f"{self.path}; if it is a script, let it end with 'exec memcached \"$@\"'"
                )
            self._deliver(all_answered=True)
            _, threads = server._pid_and_threads or (0, 1)
            self._add_flaws(threads, problem)
            if ends is not None and len(self.followers) == 1:
                self._switch_off(connection)

    def _switch_off(self, connection: protocol.Connection) -> None:
        """Makes the server stop logging, unless another process traces it."""
        if lock_alone(self._file()):
            connection.send(protocol.MARK + b"\r\nverbosity 0\r\n")
            connection.await_mark()
            connection.await_ok("verbosity 0")
            os.ftruncate(self._file(), 0)

    def read_between_tests(self) -> None:
        """Reads the log, and cuts off the part that each process has read."""
        try:
            self._read(None)
            cut(self._file(), self._position)
        except (ServerError, OSError) as error:
            self._note(f"the log of memcached at {self._address} was lost: {error}")

    def close(self) -> None:
        """Closes the file, and with it the lock."""
        _logs.pop(self.path, None)
        descriptor, self._descriptor = self._descriptor, -1
        if rest.identity(descriptor) == self._identity:
            posix.close(descriptor)

    def end_following(self, follower: Follower, threads: int) -> None:
        """Gives a follower the rest of the log, and what has no answer yet."""
        self.read_between_tests()
        self._deliver(all_answered=True)
        self._add_flaws(threads)
        self._drop(follower)

    def _drop(self, follower: Follower) -> None:
        self.followers = [other for other in self.followers if other is not follower]
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self.followers:
            self.close()

    def _file(self) -> int:
        """Returns the descriptor of the log, opened again if a test has closed it.

        :raises ServerError: the file is gone.
        """
        if rest.identity(self._descriptor) != self._identity:  # It may be another file's by now.
            self._descriptor = open_log(self.path)
            self._identity = rest.identity(self._descriptor)
            move_lock(self._descriptor, self._position)
        return self._descriptor

    def _read(self, mark: bytes | None) -> bool:
        """Reads up to a mark, or all that is there; returns whether the mark was there."""
        has_mark = self._reader.feed(b"", mark)
        while not has_mark and (more := os.pread(self._file(), CHUNK, self._position)):
            self._position += len(more)
            has_mark = self._reader.feed(more, mark)
            self._deliver(all_answered=False)
        move_lock(self._file(), self._position)
        return has_mark

    def _deliver(self, all_answered: bool) -> None:
        if events := self._reader.take(all_answered):
            for follower in self.followers:
                follower.take(events)

    def _add_flaws(self, threads: int, problem: str = "") -> None:
        """Notes for each trace why operations may be missing."""
        reader = self._reader
        traced = f"memcached at {self._address}, which was being traced"
        flaws = [f"a client has sent {command!r} to {traced}" for command in reader.verbosities]
        if problem:
            flaws.append(problem)
        if reader.mixed_lines and threads > 1:
            flaws.append(
                f"the threads of {traced}, have mixed {reader.mixed_lines:,} lines of its log"
            )
        reader.verbosities, reader.mixed_lines = [], 0
        for flaw in flaws:
            self._note(flaw)

    def _note(self, flaw: str) -> None:
        for follower in self.followers:
            follower.note(flaw)


# The logs that this process reads, by path, and the lock for all that is done with them.
_logs: dict[str, _Log] = {}
_lock = threading.RLock()


def _log_of(follower: Follower) -> _Log | None:
    """Returns the log of a trace that has not ended."""
    for log in _logs.values():
        if any(other is follower for other in log.followers):
            return log
    return None


def _forget_in_fork() -> None:
    """Leaves the logs to the parent: a fork shares its locks as long as it has the files open."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()  # Another thread of the parent may have held it.
    for log in [*_logs.values()]:
        log.close()


os.register_at_fork(after_in_child=_forget_in_fork)
run.after_flush.append(read_logs)
