"""Runs one memcached process, from its start to its end."""

from __future__ import annotations

import _socket  # without what socket adds, whose import takes as long as a server's start
import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import (
    BinaryError,
    ProtocolError,
    ServerError,
    StartError,
    explain_limit,
    printable,
)
from ..registry.directories import LOOPBACK, ControlDirectory, ServerDirectory
from ..system import close_in_forks, deferred, no_fork
from ..system.processes import problem_of_listener, unprivileged_user
from ..system.reaper import Reaper
from . import NOT_RUNNING, Server
from .binary import find_memcached
from .options import ANY_PORT, check

if TYPE_CHECKING:
    from _memcached_sandbox.protocol import Tally
    from typing_extensions import Self

# Seconds to wait, after a lost connection, for the server to exit, so that its exit status can be
# reported.
DYING_TIME = 0.2

# memcached executes that many requests of a connection before those of the next one: a flush that
# asks whether the server is at rest relies on it. The default is 20.
EVERY_REQUEST = "-R1000000"

# Bytes of the end of memcached's output to show when it fails, and to read for that: most of it may
# be that of a trace.
LAST_OUTPUT = 500
READ_OUTPUT = 20_000


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
        if max_item_size is not None:
            self._arguments.append(f"-I{max_item_size}")
        self._arguments += args
        self._start_timeout = start_timeout
        self._crawl = crawl
        self._process: _Process | None = None
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
        with _limits_explained():
            self._launch()

    def _launch(self) -> None:
        command = [*find_memcached(self._binary), *self._arguments]
        if self.follow_log is not None:
            command.append("-vv")
        with deferred(), no_fork:
            process = _Process(
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
            with _limits_explained():
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
        """The pid of the memcached process."""
        return self._running().pid

    @property
    def directory(self) -> str:
        """The server's directory, for this user alone; it is removed with the server."""
        return self._running().directory.path

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

    def _running(self) -> _Process:
        if self._process is None:
            raise ServerError(NOT_RUNNING)
        return self._process

    def _explain(self, error: Exception) -> str | None:
        # A dying process loses its connections one by one, and the end may not be known yet.
        return self._running().exit_reason(0 if isinstance(error, TimeoutError) else DYING_TIME)


# The servers that this process has started.
_started: weakref.WeakSet[Memcached] = weakref.WeakSet()


def servers_of_process() -> dict[str, Server]:
    """Returns the servers that run in this process, by address."""
    return {server._address: server for server in [*_started] if server._address is not None}


def server_at(address: str) -> Server:
    """Returns the server of this process at an address, or else one that knows no more than it."""
    return servers_of_process().get(address) or Server(address)


class _Process:
    """Starts a memcached process with its reaper, its directory and its port, and ends all of them.

    :raises SandboxError: it cannot be started; nothing is left then.
    """

    def __init__(
        self,
        command: Sequence[str],
        memory_mb: int,
        unix_socket: bool,
        control_directory: ControlDirectory | None,
        start_timeout: float,
    ) -> None:
        self._start_timeout = start_timeout
        self._deadline = time.monotonic() + start_timeout
        self.command = [*command]
        self._memory_mb = memory_mb
        self._unix_socket = unix_socket
        self._control_directory = control_directory
        self._port = -1  # a descriptor: an object would warn when the interpreter exits
        self._wanted: dict[str, str] = {}  # what `stats settings` must say of its address
        self.asked: Tally | None = None
        self._exit_reason: str | None = None
        self._lock = threading.RLock()
        self._reaper = Reaper()
        run = control_directory.run if control_directory and control_directory.run.is_open else None
        self.directory = ServerDirectory.create(unprivileged_user(), run)
        close_in_forks(self)
        try:
            self._start()
            self._register()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._reaper.pid

    def _start(self) -> None:
        directory, control = self.directory, self._control_directory
        folder = directory.folder_for_server
        variables = {}
        if directory.user is not None:
            self.command += ["-u", directory.user.pw_name]
        if self._unix_socket:
            # memcached writes its pid once it listens: save_pid() in memcached.c.
            self._wanted = {"domain_socket": f"{folder}/socket"}
            self.command += ["-s", f"{folder}/socket", "-a", "0700", "-P", f"{folder}/pid"]
        else:
            port = self._hold_port()
            self._wanted = {"inter": LOOPBACK, "tcpport": port, "udpport": "0"}
            self.command += ["-l", LOOPBACK, "-p", port, "-U", "0"]
            variables["MEMCACHED_PORT_FILENAME"] = f"{folder}/port"
        try:
            self._reaper.start(
                self.command,
                variables,
                directory=directory.path,
                files=directory.CONTENTS,
                control="" if control is None else control.name,
                control_files=() if control is None else control.PATTERNS,
                lock=directory.lock,
                fifo=directory.FIFO,
                folder=directory.FOLDER,
                output=directory.OUTPUT,
            )
        except OSError as error:
            if (reached := explain_limit(error)) is not None:
                raise StartError(f"{self.command[0]} cannot be started: {reached}") from error
            if error.filename != self.command[0]:
                file = f"{error.filename}: " if error.filename else ""
                raise StartError(
                    f"memcached's reaper cannot be started: {file}{error.strerror}"
                ) from error
            from .installed import remedy

            raise BinaryError(
                f"{self.command[0]} cannot be executed ({error.strerror})", remedy(self.command[0])
            ) from error

    def _register(self) -> None:
        """Writes the record, and removes what killed runs have left, while memcached comes up."""
        control, run = self._control_directory, self.directory.run
        try:
            name = "" if control is None else control.name
            self.directory.write_record(self.pid, self._memory_mb, name)
            if run.names() != [self.directory.name]:
                from ..registry.cleanup import remove_stale

                remove_stale(run)
        except OSError as error:
            what = explain_limit(error) or error
            raise StartError(f"the run directory cannot be used: {what}") from error

    def _hold_port(self) -> str:
        """Binds a free port, to which memcached binds as well, until `end`.

        No other program is given the port meanwhile, and no connection is accepted by it. Linux
        lets a second socket listen at a port whose first one does not: SO_REUSEADDR in socket(7).
        Others want SO_REUSEPORT for that, which memcached does not set: it chooses a port there.
        """
        if sys.platform != "linux":
            return ANY_PORT
        holder = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            holder.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            holder.bind((LOOPBACK, 0))
            _check_route(holder.getsockname())
            return str(holder.getsockname()[1])
        except OSError as error:
            if explain_limit(error) is not None:
                raise
            raise StartError(
                f"no process here can connect to {LOOPBACK}, as without a loopback interface: "
                f"{error.strerror}; let memcached listen on a Unix socket, by --unix, "
                "MEMCACHED_SANDBOX_UNIX=1 or unix_socket=True"
            ) from error
        finally:
            self._port = holder.detach()

    def wait_for_address(self) -> str:
        """Returns where memcached listens, once it does.

        :raises StartError: memcached has ended, does not answer, or is another process.
        """
        binary, directory, address = self.command[0], self.directory, "an unknown address"
        try:
            if not (line := self._reaper.read_ready(self._deadline)):
                raise StartError(f"{binary} {self.exit_reason()} before it was ready")
            peer: str | tuple[str, int]
            if self._unix_socket:
                peer, address = directory.socket, f"unix:{directory.socket}"
            else:
                # What it tells counts only where it has chosen the port itself.
                told, asked = _port_in(line), self._wanted["tcpport"]
                port = told if asked == ANY_PORT else int(asked)
                peer, address = (LOOPBACK, port), f"{LOOPBACK}:{port}"
            seconds = max(0.001, self._deadline - time.monotonic())
            problem, self.asked = problem_of_listener(peer, self.pid, self._wanted, seconds)
            directory.add_address(address)
            in_group = self._reaper.is_in_group
        except TimeoutError:
            if reason := self.exit_reason():
                raise StartError(f"{binary} {reason} before it was ready") from None
            raise StartError(
                f"{binary} was not ready within {self._start_timeout:g} seconds and was killed"
                f"{self._said()}: is it memcached? If it is, give it more time to start"
            ) from None
        except (OSError, ProtocolError) as error:
            if isinstance(error, OSError) and (reached := explain_limit(error)) is not None:
                raise StartError(f"{binary} cannot be used: {reached}") from error
            reason = (
                self.exit_reason()
                or f"does not answer as a memcached does at {address}: {error}{self._said()}"
            )
            raise StartError(f"{binary} {reason}") from error
        if not in_group:
            raise StartError(
                f"{binary} has left its process group, and could not be ended with its owner: "
                "if it is a script, let it end with 'exec memcached ...'"
            )
        if problem:
            raise StartError(
                f"{binary} was to listen at {address} alone, but {problem}: "
                "if it is a script, let it end with 'exec memcached \"$@\"'"
            )
        return address

    def exit_reason(self, patience: float = 0) -> str | None:
        """Returns how memcached ended by itself, with its last output, or None while it runs.

        :param patience: seconds to wait for the end of one that may be ending.
        """
        with self._lock:
            if self._exit_reason is None and self._reaper.has_exited(patience):
                self._exit_reason = f"{_how_it_ended(self._reaper.exit_code())}{self._said()}"
            return self._exit_reason

    def end(self) -> None:
        """Kills memcached and removes its directory. Does nothing in a fork of the owner."""
        if self._reaper.is_mine:
            with deferred(), self._lock:
                # One after the other: files that are removed while memcached ends can hold up its
                # end until the kernel's next tick (4 ms on Linux 6.18 with two CPUs).
                try:
                    self._reaper.end()
                finally:
                    with no_fork:  # To remove a directory takes a descriptor.
                        self._reaper.close_fds()
                    try:
                        self.directory.remove()
                    finally:
                        with no_fork:
                            self.directory.close_fds()
                            if self._control_directory is None:
                                self.directory.run.close_fds()
                            self._release_port()

    def close_fds(self) -> None:
        """Closes what this process has open for memcached: a fork must not hold it."""
        self._lock = threading.RLock()  # Another thread of the parent may have held it.
        self._reaper.close_fds()
        self._release_port()

    def _release_port(self) -> None:
        descriptor, self._port = self._port, -1
        if descriptor >= 0:
            posix.close(descriptor)

    def _said(self) -> str:
        """Returns the end of memcached's output in one line; nothing if it has printed nothing."""
        from .log import TRACED

        output = self.directory.read_output(READ_OUTPUT)
        if len(output) == READ_OUTPUT:
            output = output.partition(b"\n")[2]  # without a line that is cut
        lines = (line for line in output.strip(b"\0").splitlines() if not TRACED.match(line))
        words = " ".join(b"\n".join(lines)[-LAST_OUTPUT:].decode(errors="replace").split())
        return f", saying: {printable(words)}" if words else ""


def _check_route(peer: tuple[str, int]) -> None:
    """Looks up the route to an address. To connect a datagram socket sends nothing: connect(2).

    :raises OSError: there is none.
    """
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        probe.connect(peer)
    finally:
        probe.close()


def _port_in(line: bytes) -> int:
    """Returns the port in the line that memcached writes, such as ``TCP INET: 41877``.

    :raises ProtocolError: there is none.
    """
    digits = b"".join(line.split()[2:3])
    if not (digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 1 << 16):
        raise ProtocolError(f"wrote {line[:80]!r} in place of its port")
    return int(digits)


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended with an unknown exit code"
    if exit_code < 0:
        import signal

        return f"was killed by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    return f"ended with exit code {exit_code}"


@contextmanager
def _limits_explained() -> Iterator[None]:
    """Raises StartError for a limit of this machine that is reached anywhere within a start.

    Even an import may be the first to need a file descriptor: that of warnings, for instance, in
    os.get_exec_path() of Python 3.14.
    """
    try:
        yield
    except OSError as error:
        if (reached := explain_limit(error)) is None:
            raise
        raise StartError(f"memcached cannot be started: {reached}") from error
