"""Runs one memcached process after the other at one address, with the reaper that ends them."""

from __future__ import annotations

import _socket  # without what socket adds, whose import takes as long as a server's start
import posix  # gevent and eventlet replace functions of os, but none of posix
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import BinaryError, ProtocolError, StartError, explain_limit, printable
from ..registry.directories import (
    LOOPBACK,
    RESTARTED,
    RESTARTED_FULL,
    ControlDirectory,
    ServerDirectory,
)
from ..system import close_in_forks, deferred, no_fork
from ..system.processes import problem_of_listener, unprivileged_user
from ..system.reaper import Reaper
from .options import ANY_PORT

if TYPE_CHECKING:
    from _memcached_sandbox.protocol import Tally

    from .outages import Counters, Outage

# Bytes of the end of memcached's output to show when it fails, and to read for that: most of it may
# be that of a trace.
LAST_OUTPUT = 500
READ_OUTPUT = 20_000

# Seconds to wait, after a lost connection, for the server to exit, so that its exit status can be
# reported.
DYING_TIME = 0.2


class MemcachedProcess:
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
        self._variables: dict[str, str] = {}
        self.outage: Outage | None = None  # that a user has asked for, and that goes on
        self.outages = 0  # that have ended
        self.ended: list[Counters] = []  # of its earlier processes
        self.address = "an unknown address"
        self._exit_reason: str | None = None
        self.lock = threading.RLock()
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
        """The pid of memcached, or of the last one if it is down."""
        return self._reaper.pid

    @property
    def is_mine(self) -> bool:
        """Whether this process has started it, and is no fork of the one that has."""
        return self._reaper.is_mine

    @property
    def owner(self) -> int:
        """The pid of the process that has started it."""
        return self._reaper.owner

    @property
    def holds_port(self) -> bool:
        """Whether memcached can be started again at the same address."""
        return self._unix_socket or self._port >= 0

    def _start(self) -> None:
        directory, control = self.directory, self._control_directory
        folder = directory.folder_for_server
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
            self._variables = {"MEMCACHED_PORT_FILENAME": f"{folder}/port"}
        with self._spawn_explained():
            self._reaper.start(
                self.command,
                self._variables,
                directory=directory.path,
                files=directory.CONTENTS,
                control=self._control_name,
                control_files=() if control is None else control.PATTERNS,
                lock=directory.lock,
                fifo=directory.FIFO,
                folder=directory.FOLDER,
                output=directory.OUTPUT,
            )

    @contextmanager
    def _spawn_explained(self) -> Iterator[None]:
        try:
            yield
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
        run = self.directory.run
        with _recording():
            self.directory.write_record(self.pid, self._memory_mb, self._control_name)
            if run.names() != [self.directory.name]:
                from ..registry.cleanup import remove_stale

                remove_stale(run)

    @property
    def _control_name(self) -> str:
        return "" if self._control_directory is None else self._control_directory.name

    def record(self, outage: str) -> None:
        """Writes the record anew: memcached may be another process, or in an outage.

        :raises StartError: it cannot be written.
        """
        with _recording():
            self.directory.replace_record(
                self.pid, self._memory_mb, self._control_name, self.address, outage
            )

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
        self._await()
        with _recording():
            self.directory.add_address(self.address)
        return self.address

    def _await(self) -> None:
        """Waits until memcached listens, and proves that it is the one that does.

        :raises StartError: it has ended, does not answer, or is another process.
        """
        binary, directory = self.command[0], self.directory
        try:
            if not (line := self._reaper.read_ready(self._deadline)):
                raise StartError(f"{binary} {self._why_it_ended()} before it was ready")
            peer: str | tuple[str, int]
            if self._unix_socket:
                peer, self.address = directory.socket, f"unix:{directory.socket}"
            else:
                # What it tells counts only where it has chosen the port itself.
                told, asked = _port_in(line), self._wanted["tcpport"]
                port = told if asked == ANY_PORT else int(asked)
                peer, self.address = (LOOPBACK, port), f"{LOOPBACK}:{port}"
            seconds = max(0.001, self._deadline - time.monotonic())
            problem, self.asked = problem_of_listener(peer, self.pid, self._wanted, seconds)
            in_group = self._reaper.is_in_group
        except TimeoutError:
            if reason := self._why_it_ended():
                raise StartError(f"{binary} {reason} before it was ready") from None
            raise StartError(
                f"{binary} was not ready within {self._start_timeout:g} seconds and was killed"
                f"{self._said()}: is it memcached? If it is, give it more time to start"
            ) from None
        except (OSError, ProtocolError) as error:
            if isinstance(error, OSError) and (reached := explain_limit(error)) is not None:
                raise StartError(f"{binary} cannot be used: {reached}") from error
            reason = (
                self._why_it_ended()
                or f"does not answer as a memcached does at {self.address}: {error}{self._said()}"
            )
            raise StartError(f"{binary} {reason}") from error
        if not in_group:
            raise StartError(
                f"{binary} has left its process group, and could not be ended with its owner: "
                "if it is a script, let it end with 'exec memcached ...'"
            )
        if problem:
            raise StartError(
                f"{binary} was to listen at {self.address} alone, but {problem}: "
                "if it is a script, let it end with 'exec memcached \"$@\"'"
            )

    def has_ended(self) -> bool:
        """Returns whether memcached has ended, in an outage, too."""
        with self.lock:
            return self._why_it_ended(DYING_TIME) is not None

    def kill(self) -> None:
        """Kills memcached, and nothing else: `start_again` may follow."""
        self._share_port(False)
        self._reaper.kill()

    def _share_port(self, is_shared: bool) -> None:
        """Lets memcached bind the port that is held, or nobody: SO_REUSEADDR in socket(7)."""
        if self._port >= 0:
            holder = _socket.socket(fileno=self._port)
            try:
                holder.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, is_shared)
            finally:
                holder.detach()

    def pause(self) -> None:
        """Stops memcached in its tracks: the kernel goes on to accept connections for it.

        :raises OSError: it has ended, or the kernel does not do it.
        """
        self._reaper.pause()

    def resume(self) -> None:
        """Lets memcached go on after `pause`."""
        self._reaper.resume()

    def start_again(self, arguments: Sequence[str], is_full: bool = False) -> None:
        """Starts memcached at the same address, after `kill`, and waits until it is ready.

        :param arguments: further ones, for this process alone.
        :param is_full: it will have no memory for what clients set, on purpose.
        :raises SandboxError: it cannot be started there; it does not run then.
        """
        directory = self.directory
        self._deadline = time.monotonic() + self._start_timeout
        self._exit_reason = None
        try:
            with _recording():
                directory.append_output((RESTARTED_FULL if is_full else RESTARTED) + b"\n")
                directory.link_fifo()
            self._share_port(True)
            with self._spawn_explained(), no_fork:
                self._reaper.start_again(
                    [*self.command, *arguments],
                    self._variables,
                    lock=directory.lock,
                    fifo=directory.FIFO,
                    folder=directory.FOLDER,
                    output=directory.OUTPUT,
                )
            with limits_explained():
                self._await()
        except BaseException as error:
            self.kill()
            self._exit_reason = f"could not be started again: {error}"
            raise

    def exit_reason(self, patience: float = 0) -> str | None:
        """Returns how memcached ended by itself, with its last output, or None while it runs.

        In an outage that a user has asked for it is None, too.

        :param patience: seconds to wait for the end of one that may be ending.
        """
        with self.lock:
            is_meant = self.outage is not None and not self.outage.has_failed
            return None if is_meant else self._why_it_ended(patience)

    def _why_it_ended(self, patience: float = 0) -> str | None:
        with self.lock:
            if self._exit_reason is None and self._reaper.has_exited(patience):
                self._exit_reason = f"{_how_it_ended(self._reaper.exit_code())}{self._said()}"
            return self._exit_reason

    def end(self) -> None:
        """Kills memcached and removes its directory. Does nothing in a fork of the owner."""
        if self._reaper.is_mine:
            with deferred(), self.lock:
                if self.outage is not None:
                    self.outage.release()
                    self.outage = None
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
        self.lock = threading.RLock()  # Another thread of the parent may have held it.
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
        _, was_restarted, after = output.rpartition(RESTARTED)
        output = after.partition(b"\n")[2] if was_restarted else output
        lines = (line for line in output.strip(b"\0").splitlines() if not TRACED.match(line))
        words = " ".join(b"\n".join(lines)[-LAST_OUTPUT:].decode(errors="replace").split())
        return f", saying: {printable(words)}" if words else ""


@contextmanager
def _recording() -> Iterator[None]:
    """Raises StartError if the files of a server cannot be used."""
    try:
        yield
    except OSError as error:
        what = explain_limit(error) or error
        raise StartError(f"the run directory cannot be used: {what}") from error


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
def limits_explained() -> Iterator[None]:
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
