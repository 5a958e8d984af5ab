"""Runs a program that must not outlive this process, however this process ends.

This process, the owner, starts two children in a process group of their own: the reaper, a shell
that leads the group, and the program. The reaper waits for the owner's word on a socket whose other
end only the owner has. The kernel closes that end when the owner ends, by whatever end: the reaper
then kills the group and removes the program's files.

There is no moment at which the program could be left alone. While the owner starts it, it has the
owner's end of the socket, too, until it is executed: posix_spawn(3) and close-on-exec. By then it
is in the group. So no pid has to be handed over, and none is searched for.
"""

from __future__ import annotations

import _socket  # without what socket adds, whose import takes as long as a server's start
import errno
import fcntl
import functools
import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

# "kill 0" is for the whole process group. SIGALRM ends the program before its files are removed,
# which it may be making: memcached does not handle that signal, and the shell ignores it. If one of
# the group is stopped when the owner ends, the kernel sends SIGHUP to all of them: POSIX, _exit().
SCRIPT = """\
trap '' ALRM HUP
directory=$1 files=$2 control=$3 control_files=$4 rm=$5 rmdir=$6
cd "$directory" || kill -9 0
read -r word && kill -9 0
kill -ALRM 0
"$rm" -rf $files
cd -P .. || kill -9 0
[ "$control" ] && cd -P "$control" && "$rm" -f $control_files && cd -P ..
"$rmdir" ${control:+"$control"} "${directory##*/}"
directory=${directory%/*}
cd -P .. && "$rmdir" "${directory##*/}"
kill -9 0
"""

# The reaper's name in a list of processes. Its directory is the next word there.
NAME = "memcached-sandbox-reaper"

# The only variables that reaper and program get: a shell executes code from some others.
VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")

# The program's descriptors beside the standard ones: the FIFO, and a folder that it may write to.
FIFO = 3
FOLDER = 4

# The reaper's: the lock of the directory.
LOCK = 3

# Where sh, rm and rmdir usually are, before PATH is searched.
TOOL_FOLDERS = ("/bin", "/usr/bin")

# A dead reaper must not kill the owner by SIGPIPE. macOS has no such flag.
NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)

# Seconds to wait for the reaper to obey: it takes less than a millisecond unless it is stopped.
PATIENCE = 1.0


class Reaper:
    """Starts a program, and the reaper that ends it when its owner ends.

    Every method may be called again. In a fork of the owner only `close_fds` does anything.
    """

    def __init__(self) -> None:
        self.pid = 0  # the program's, once it was started
        self._shell = 0
        self.owner = os.getpid()
        self._waited = False  # for the program
        self._exit_code: int | None = None
        self._ready = -1
        # Descriptors: objects would warn when the interpreter exits, and the program outlives it.
        self._words = -1
        self._unread = b""

    def start(
        self,
        program: Sequence[str],
        variables: Mapping[str, str],
        *,
        directory: str,
        files: Iterable[str],
        control: str,
        control_files: Iterable[str],
        lock: int,
        fifo: str,
        folder: str,
        output: str,
    ) -> None:
        """Starts the reaper and the program.

        :param program: the command, with the path of its executable first.
        :param variables: variables of the program, beside those in `VARIABLES`.
        :param directory: removed when the owner has ended, and its parent if that is empty then.
        :param files: names of what is in ``directory``.
        :param control: the name of a directory beside it to remove then, or "".
        :param control_files: names of what is in it; they may be patterns of the shell.
        :param lock: a descriptor of ``directory`` that only the reaper inherits.
        :param fifo: the name of a FIFO in it; the program inherits an end to write to as `FIFO`.
        :param folder: the name of a folder in it that the program inherits as `FOLDER`.
        :param output: the name of a new file in it that the program prints into.
        :raises OSError: one of them cannot be started; `end` must follow.
        """
        env = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        inherited: list[int] = []
        try:
            ends = _socket.socketpair()
            self._words = _above(FOLDER, ends[0].detach())
            inherited.append(_above(FOLDER, ends[1].detach()))
            inherited.append(_above(FOLDER, os.dup(lock)))
            self._ready = _open(lock, fifo, os.O_RDONLY | os.O_NONBLOCK)
            self._open_for_program(inherited, lock, fifo, folder, output, os.O_CREAT | os.O_EXCL)
            words, to_lock, *of_program = inherited
            tools = map(_find_tool, ("rm", "rmdir"))
            arguments = [directory, " ".join(files), control, " ".join(control_files), *tools]
            self._shell = _spawn_shell(arguments, env, words, to_lock)
            self.pid = _spawn_program(program, {**env, **variables}, self._shell, *of_program)
        finally:
            for descriptor in inherited:
                posix.close(descriptor)

    def start_again(
        self,
        program: Sequence[str],
        variables: Mapping[str, str],
        *,
        lock: int,
        fifo: str,
        folder: str,
        output: str,
    ) -> None:
        """Starts a program in place of the one that `kill` has ended, as `start` does.

        :raises OSError: it cannot be started.
        """
        env = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        inherited: list[int] = []
        try:
            self._open_for_program(inherited, lock, fifo, folder, output)
            self.pid = _spawn_program(program, {**env, **variables}, self._shell, *inherited)
        finally:
            for descriptor in inherited:
                posix.close(descriptor)
        self._waited, self._exit_code, self._unread = False, None, b""

    @staticmethod
    def _open_for_program(
        opened: list[int], lock: int, fifo: str, folder: str, output: str, flags: int = 0
    ) -> None:
        """Opens what the program inherits, and adds each descriptor to a list.

        :param flags: how else to open the file that it prints into.
        """
        # Not opened by the program: without an owner it would wait for a reader for ever.
        opened.append(_open(lock, fifo, os.O_WRONLY))
        opened.append(_open(lock, folder, os.O_RDONLY | os.O_DIRECTORY))
        opened.append(_open(lock, output, os.O_WRONLY | os.O_APPEND | flags))

    def kill(self) -> None:
        """Kills the program, and waits for its end. The reaper lives on."""
        self._kill()
        self._wait()

    def pause(self) -> None:
        """Stops the program by SIGSTOP, and waits until all of its threads have stopped.

        :raises OSError: it has ended, or does not stop.
        """
        self._wait(os.WNOHANG)
        if self._waited:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        os.kill(self.pid, signal.SIGSTOP)
        # Not by waitpid(2): other code of this process may take the word of it.
        deadline = time.monotonic() + PATIENCE
        while not has_stopped(self.pid):
            if time.monotonic() > deadline:
                self.resume()
                raise TimeoutError(errno.ETIMEDOUT, "it runs on")
            os.sched_yield()

    def resume(self) -> None:
        """Lets the program go on after `pause`."""
        self._wait(os.WNOHANG)
        if not self._waited:
            with suppress(ProcessLookupError):  # It has just ended, and SIGCHLD is ignored.
                os.kill(self.pid, signal.SIGCONT)

    @property
    def is_in_group(self) -> bool:
        """Whether the program is in the process group that the reaper kills."""
        return os.getpgid(self.pid) == self._shell

    @property
    def is_mine(self) -> bool:
        """Returns whether this process is the owner, and no fork of it."""
        return os.getpid() == self.owner

    def read_ready(self, deadline: float) -> bytes:
        """Returns the line that the program writes into its FIFO; b"" if it ends without one.

        :param deadline: when to give up, in seconds of the monotonic clock.
        :raises TimeoutError: there was no line by then.
        """
        while b"\n" not in self._unread:
            if not is_readable(self._ready, deadline - time.monotonic()):
                raise TimeoutError
            more = posix.read(self._ready, 1000)
            if not more:
                return b""
            self._unread += more
        return self._unread

    def has_exited(self, patience: float = 0) -> bool:
        """Returns whether the program has ended, or no process can write into its FIFO any more.

        :param patience: seconds to wait for that.
        """
        if self._ready < 0:
            return self.is_mine
        self._wait(os.WNOHANG)
        if self._waited:
            return True  # A child that it has started may hold the FIFO.
        deadline = time.monotonic() + patience
        while is_readable(self._ready, deadline - time.monotonic()):
            more = posix.read(self._ready, 65536)
            if not more:
                return True
            if b"\n" not in self._unread:
                self._unread += more
            elif time.monotonic() > deadline:
                break  # It writes on and on.
        return False

    def exit_code(self) -> int | None:
        """Returns the exit code of a program that has ended, or minus the signal that ended it.

        A program that has only closed its end of the FIFO is killed.

        :returns: None if something else has waited for the children of this process.
        """
        if self.is_mine and self.pid:
            self.kill()
        return self._exit_code

    def end(self) -> None:
        """Ends the program, what it has started and the reaper, and waits for that.

        `close_fds` must follow.
        """
        if not self.is_mine:
            return
        if self._shell and self._words >= 0:
            patience = PATIENCE if self._tell(b"end\n") else 0
            # The reaper's end of the socket is closed with its own end.
            if not is_readable(self._words, patience):
                with suppress(ProcessLookupError):  # It has just ended.
                    os.killpg(self._shell, signal.SIGKILL)  # It was stopped by SIGSTOP.
            if self.pid:
                # The reaper may have been killed, or the program may have left its group.
                self._kill(with_group=True)
                self._wait()
            _wait_for(self._shell)
            self._shell = 0

    def close_fds(self) -> None:
        """Closes the owner's descriptors, which a fork must not hold."""
        descriptors = self._ready, self._words
        self._ready = self._words = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                posix.close(descriptor)

    def _tell(self, word: bytes) -> bool:
        """Sends a word to the reaper and returns whether it was there."""
        end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, fileno=self._words)
        try:
            return end.send(word, NO_SIGNAL) > 0
        except BrokenPipeError:
            return False
        finally:
            end.detach()

    def _kill(self, with_group: bool = False) -> None:
        """Kills the program, unless it was waited for: its pid may be another's then."""
        self._wait(os.WNOHANG)
        if not self._waited:
            try:
                if with_group and self.is_in_group:
                    os.killpg(self._shell, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # It has just ended, and SIGCHLD is ignored.

    def _wait(self, options: int = 0) -> None:
        if not self._waited:
            self._waited, self._exit_code = _wait_for(self.pid, options)


def has_stopped(pid: int) -> bool:
    """Returns whether all threads of a process are stopped, as by SIGSTOP.

    :raises ProcessLookupError: it has ended.
    """
    folder = f"/proc/{pid}/task"
    if not os.path.exists("/proc/self/task"):
        import psutil

        try:
            return psutil.Process(pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    states = set()
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/stat", "rb") as file:
            # The state follows the name, which may have parentheses in it: proc(5).
            states.add(file.read().rpartition(b") ")[2][:1])
    if states & {b"Z", b"X"}:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return states == {b"T"}


def _spawn_shell(arguments: Sequence[str], env: Mapping[str, str], words: int, lock: int) -> int:
    return os.posix_spawn(
        _find_tool("sh"),
        ["sh", "-c", SCRIPT, NAME, *arguments],
        env,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, words, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, lock, LOCK),
        ],
        setpgroup=0,  # Ctrl-C and a hangup reach the terminal's foreground group only.
        setsigmask=(signal.SIGHUP,),  # until the shell ignores it
        setsigdef=(signal.SIGCHLD,),  # If it is ignored, a shell cannot wait for rm.
    )


def _spawn_program(
    program: Sequence[str], env: Mapping[str, str], group: int, fifo: int, folder: int, output: int
) -> int:
    return os.posix_spawn(
        program[0],
        [*program],
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            (os.POSIX_SPAWN_DUP2, fifo, FIFO),
            (os.POSIX_SPAWN_DUP2, folder, FOLDER),
        ],
        setpgroup=group,
        setsigmask=(),
        setsigdef=(signal.SIGCHLD, signal.SIGALRM, signal.SIGHUP),
    )


def _wait_for(child: int, options: int = 0) -> tuple[bool, int | None]:
    """Waits for a child; returns whether it has ended, and its exit code if that is known."""
    try:
        ended, status = posix.waitpid(child, options)
    except ChildProcessError:
        return True, _known_exit_code(child)
    return ended == child, os.waitstatus_to_exitcode(status) if ended else None


def _known_exit_code(child: int) -> int | None:
    """Returns the exit code of a child that other code of this process has waited for.

    gevent's loop waits for all children. Its os.waitpid() returns the status that was found.

    :returns: None if that is unknown, or if SIGCHLD is ignored.
    """
    try:
        ended, status = os.waitpid(child, os.WNOHANG)  # noqa: TID251 - gevent's
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended else None


def _open(directory: int, name: str, flags: int) -> int:
    """Opens what has a name in a directory, but follows no link."""
    return _above(FOLDER, os.open(name, flags | os.O_NOFOLLOW, mode=0o600, dir_fd=directory))


def _above(lowest: int, descriptor: int) -> int:
    """Moves a descriptor above those that a child needs: a daemon that closed its own has them.

    :returns: the descriptor, or the one that replaces it.
    """
    if descriptor > lowest:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest + 1)
    finally:
        posix.close(descriptor)


def is_readable(descriptor: int, seconds: float) -> bool:
    """Returns whether there is something to read, or the end, within some seconds.

    Asks for POLLIN: macOS reports no end without it.
    """
    poll = _original_select().poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, seconds * 1000)))


@functools.cache
def _original_select() -> ModuleType:
    """Returns a copy of the module select as it was when it was imported first.

    gevent replaces poll() by one that runs other greenlets, and eventlet removes it.
    """
    assert select.__spec__ is not None
    loader: Any = select.__spec__.loader
    module: ModuleType = loader.create_module(select.__spec__)
    loader.exec_module(module)
    return module


@functools.cache
def _find_tool(name: str) -> str:
    for folder in (*TOOL_FOLDERS, *os.get_exec_path()):
        path = f"{folder}/{name}"
        # A relative folder may be another user's.
        if os.path.isabs(folder) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    places = ", ".join(TOOL_FOLDERS)
    raise FileNotFoundError(errno.ENOENT, f"no executable {name!r} in {places} or on PATH")
