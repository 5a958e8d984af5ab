"""A memcached process with its reaper and its directory, and what all it may die of."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Sequence

from ..errors import BinaryError, ProtocolError, StartError, explain_limit
from ..registry.server_directory import ServerDirectory
from ..system.processes import unprivileged_user
from ..system.reaper import Reaper

# A launch takes about a millisecond until its reaper knows of it, in seconds.
SETTLING_TIME = 1.0

# How much of what memcached printed is told when it fails: bytes from the end.
LAST_WORDS = 500


class MemcachedProcess:
    """A memcached process with its reaper and its directory. Nothing happens before `launch`."""

    def __init__(self, command: Sequence[str], unix_socket: bool) -> None:
        self.command = [*command]
        self.directory = ServerDirectory(unprivileged_user())
        self.reaper = Reaper()
        self._unix_socket = unix_socket
        self._death: str | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int:
        return self.reaper.pid

    def launch(self, memory_mb: int) -> None:
        """Start memcached and its reaper. Raises SandboxError; `end` must follow then."""
        _processes.add(self)
        with self._lock:
            if _exiting and threading.current_thread() is not threading.main_thread():
                threading.Event().wait()  # this thread ends where it is
            self._launch()
        # While memcached comes up:
        from ..registry import record
        from ..registry.cleanup import remove_stale

        path = self.directory.path
        try:
            record.write(path, self.pid, memory_mb)
            remove_stale(os.path.dirname(path), path)
        except OSError as error:
            what = explain_limit(error) or error
            raise StartError(f"the run directory cannot be used: {what}") from error

    def _launch(self) -> None:
        directory = self.directory
        directory.make()
        env = dict(os.environ)
        folder = directory.folder_for_server
        if directory.user is not None:
            self.command += ["-u", directory.user.name]
        self.command += ["-P", f"{folder}/pid"]
        if self._unix_socket:
            self.command += ["-s", f"{folder}/socket", "-a", "0700"]
        else:
            # Port -1 is the kernel's choice: server_socket() in memcached.c.
            self.command += ["-l", "127.0.0.1", "-p", "-1", "-U", "0"]
            env["MEMCACHED_PORT_FILENAME"] = f"{folder}/port"
        try:
            self.reaper.run(
                self.command,
                env,
                directory=directory.path,
                output=directory.output,
                fifo=directory.fifo,
                folder=directory.folder,
            )
        except OSError as error:
            if (reached := explain_limit(error)) is not None:
                raise StartError(f"{self.command[0]} cannot be started: {reached}") from error
            raise BinaryError(
                f"{self.command[0]} cannot be executed: {error.strerror}; "
                "name another memcached in MEMCACHED_SANDBOX_BINARY"
            ) from error
        directory.unlock()

    def wait_for_address(self, deadline: float) -> str:
        """Return where memcached listens, once it does. Raises StartError."""
        from ..registry import record
        from ..system.listener import listener_pid

        binary = self.command[0]
        try:
            news = self._first_news(deadline)
            if self._unix_socket:
                address = f"unix:{self.directory.socket}"
            else:
                # memcached has written b"TCP INET: 41877\n".
                address = f"127.0.0.1:{int(news.split()[2])}"
            listener = listener_pid(address, self.pid, max(0.001, deadline - time.monotonic()))
            record.add_address(self.directory.path, address)
        except TimeoutError:
            raise StartError(
                f"{binary} was not ready within its start_timeout and was killed{self._said()}: "
                "is it memcached? If it is, give it more time"
            ) from None
        except (OSError, ValueError, LookupError, ProtocolError) as error:
            if isinstance(error, OSError) and (reached := explain_limit(error)) is not None:
                raise StartError(f"{binary} cannot be used: {reached}") from error
            fate = self.death() or f"does not answer as a memcached does: {error}{self._said()}"
            raise StartError(f"{binary} {fate}") from error
        if listener != self.pid:
            raise StartError(
                f"another process than the one that was started serves {address}: "
                f"if {binary} is a script, let it end with 'exec memcached ...'"
            )
        return address

    def death(self, patience: float = 0) -> str | None:
        """Return how memcached died by itself, with its last words, or None while it lives.

        ``patience`` is for one that may be dying, in seconds.
        """
        if self._death is None and self.reaper.has_ended(patience):
            self.reaper.kill()
            self._death = f"{_how_it_ended(self.reaper.wait())}{self._said()}"
        return self._death

    def end(self) -> None:
        """Kill memcached and remove the directory, unless we are a fork of who started it.

        When it is interrupted, it is done all the same. It may be called again.
        """
        if self.reaper.is_ours:
            with self._lock:
                try:
                    self._end()
                except BaseException:
                    self._end()
                    raise

    def settle(self) -> None:
        """Wait until a launch that is under way has come to where the reaper knows of it.

        From then on nobody launches or ends it any more: for the exit of the interpreter.
        """
        self._lock.acquire(timeout=SETTLING_TIME)

    def _end(self) -> None:
        self.reaper.kill()
        self.directory.remove()
        self.reaper.release()
        self.directory.remove()  # should the dying memcached have made another file

    def _first_news(self, deadline: float) -> bytes:
        news = b""
        while not news.endswith(b"\n"):
            more = self.reaper.news(deadline)
            if not more:
                raise StartError(f"{self.command[0]} {self.death()} before it was ready")
            news += more
        return news

    def _said(self) -> str:
        """Return the tail of what memcached printed, in one line; nothing when it was silent."""
        try:
            with open(self.directory.output, "rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - LAST_WORDS))
                words = " ".join(output.read().decode(errors="replace").split())
        except FileNotFoundError:
            return ""
        return f", saying: {words}" if words else ""


_processes: weakref.WeakSet[MemcachedProcess] = weakref.WeakSet()

_exiting = False


@atexit.register
def _end_all() -> None:
    """End what still runs when the interpreter exits.

    Not while other threads live on, as daemon threads do: one may be about to use a server, or to
    start one. Then it is left to the reaper, which acts when they have ended with us.
    """
    global _exiting  # noqa: PLW0603
    alone = threading.active_count() == 1
    _exiting = True
    for process in list(_processes):
        if alone:
            process.end()
        else:
            process.settle()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "ended with an unknown exit code"
    if status < 0:
        import signal

        return f"was killed by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with exit code {status}"
