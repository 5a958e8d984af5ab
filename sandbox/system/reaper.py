"""Runs a program that must not outlive us, however we end.

A helper, the reaper, blocks on a pipe of which only we hold the other end. When we end, by
whatever end, the kernel closes it: the reaper wakes up, kills the program and removes its
directory. It is a shell, which takes half a millisecond to start, while the program starts too.

There is no moment at which the program could be left alone. We tell the reaper its pid as soon
as we know it. Should we be killed before that, the kernel closes our pipe only once the program
has its own end of a FIFO open, by which it is found in /proc; where there is none, the program,
which is memcached, says its pid through that FIFO itself.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from .interrupts import close, close_all, store, store_all

# Standard input is the pipe, descriptor 3 the FIFO, $1 the directory. The pipe says the pid, and
# "end" when we see to the rest ourselves. In the FIFO only the pid is a line of one word, and at
# its end there is nobody left to kill. The program leads a process group of its own: what a script
# in its place has started goes with it.
SCRIPT = """\
read -r pid
if read -r word; then exit; fi
ours=/proc/$$/fd/3
[ "$pid" ] || for fifo in /proc/[0-9]*/fd/3; do
    if [ "$fifo" != "$ours" ] && [ "$fifo" -ef "$ours" ]; then
        pid=${fifo#/proc/}
        pid=${pid%/fd/3}
    fi
done
while [ -z "$pid" ] && read -r word rest <&3; do [ "$rest" ] || pid=$word; done
[ "$pid" ] && { kill -9 "-$pid" || kill -9 "$pid"; }
rm -rf "$1"
rmdir "${1%/*}"
"""

# What the reaper is called in a list of processes, before its directory.
NAME = "memcached-sandbox-reaper"

# The program's descriptors, and the reaper's, beside the standard ones.
FIFO = 3
FOLDER = 4

# A reaper that was told to end does so in less than a millisecond, unless someone stopped it.
PATIENCE_MS = 1000

_alive: weakref.WeakSet[Reaper] = weakref.WeakSet()


class Reaper:
    """A program that `run` starts, and the reaper that ends it when we end.

    Everything here may be interrupted and called again.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._children: list[int] = []  # the helper, and then the program
        self._status: int | None = None
        self._news: list[int] = []  # our end of the FIFO
        self._pipe: list[int] = []  # the reaper's end, until it has it, and ours
        self._moved: list[int] = []  # a descriptor that has been replaced

    def run(
        self,
        program: Sequence[str],
        env: Mapping[str, str],
        *,
        directory: str,
        output: str,
        fifo: str,
        folder: str,
    ) -> None:
        """Start the program, which prints into ``output``.

        It inherits ``fifo``, into which it may write its news and must write its pid, and
        ``folder``. ``directory`` is removed after us, and its parent when that is empty then.

        Raises OSError, when the program cannot be executed or a limit is reached; `release` then.
        """
        _alive.add(self)
        store(self._news, os.open, fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._news[0], True)
        store_all(self._pipe, os.pipe)
        for ends in (self._news, self._pipe):
            self._move_out_of_the_way(ends)
        self._spawn(
            ["/bin/sh", "-c", SCRIPT, NAME, directory],
            # None of the user's: a shell takes functions from its environment, for rm even.
            {"PATH": "/bin:/usr/bin"},
            (os.POSIX_SPAWN_DUP2, self._pipe[0], 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, self._news[0], FIFO),
        )
        close(self._pipe, 1)
        self._spawn(
            program,
            env,
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_OPEN, FIFO, fifo, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, FOLDER, folder, os.O_RDONLY, 0),
        )
        os.write(self._pipe[0], b"%d\n" % self.pid)

    def _spawn(
        self, command: Sequence[str], env: Mapping[str, str], *file_actions: tuple[Any, ...]
    ) -> None:
        """Start a child in a session of its own, where neither Ctrl-C nor a hangup reaches it."""
        spawn = functools.partial(
            os.posix_spawn,
            command[0],
            list(command),
            env,
            file_actions=file_actions,
            setsid=True,
            setsigmask=(),
        )
        store(self._children, spawn)

    @property
    def pid(self) -> int:
        """The program's pid; 0 while there is none."""
        return self._children[1] if len(self._children) > 1 else 0

    @property
    def is_ours(self) -> bool:
        """Whether this process started the program, and is no fork of the one that did."""
        return os.getpid() == self._owner

    def news(self, deadline: float) -> bytes:
        """Wait for what the program writes into its FIFO and return it; b"" when it has ended.

        ``deadline`` is in seconds of the monotonic clock. Raises TimeoutError.
        """
        left_ms = max(0, (deadline - time.monotonic()) * 1000)
        if not _ready(self._news[0], select.POLLIN, left_ms):
            raise TimeoutError
        return os.read(self._news[0], 1000)

    def has_ended(self, patience: float = 0) -> bool:
        """Whether the program has ended, or does so within seconds.

        A fork of the owner cannot tell and says no.
        """
        # Without reading: what is in the FIFO is for `news`.
        if not self._news:
            return self.is_ours
        return _ready(self._news[0], 0, patience * 1000)

    def kill(self) -> None:
        """Kill the program, without waiting for its end. Not in a fork of the owner."""
        if self.is_ours and self.pid and _is_unreaped(self.pid):
            kill_group(self.pid)

    def wait(self) -> int | None:
        """Wait for the program's end; return its exit code, or minus the signal that ended it.

        None if that cannot be known, because something else waited for our children. The pid
        stays taken until `release`, so that meanwhile nobody else can be killed for it.
        """
        if not self.is_ours or not self.pid or self._status is not None:
            return self._status
        try:
            if hasattr(os, "waitid"):
                end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                assert end is not None, "waitid() without WNOHANG returns an end"
                exited = end.si_code == os.CLD_EXITED
                self._status = end.si_status if exited else -end.si_status
            else:  # macOS, before Python 3.13
                self._status = _reap(self.pid)
        except ChildProcessError:
            pass
        return self._status

    def release(self) -> None:
        """Wait for the end of the program, which was killed, and end the reaper meanwhile.

        In a fork of the owner, nothing happens.
        """
        if not self.is_ours:
            return
        try:
            if self.pid:
                # Twice: if we were interrupted before we told the pid, the first is taken for it.
                os.write(self._pipe[0], b"end\nend\n")
        except BrokenPipeError:
            pass  # Someone has ended the helper.
        self.wait()
        if not self.pid:
            # There is no program. The reaper, if there is one, sees for itself.
            close_all(self._pipe)
        # The pipe has lost its reader when the helper has ended.
        elif not _ready(self._pipe[0], 0, PATIENCE_MS):
            os.kill(self._children[0], signal.SIGKILL)
        for child in self._children:
            _reap(child)
        self._children.clear()
        self.let_go()

    def let_go(self) -> None:
        """Close our ends: after the end, and in a fork, which must not keep the program alive."""
        _alive.discard(self)
        for ends in (self._pipe, self._news, self._moved):
            close_all(ends)

    def _move_out_of_the_way(self, ends: list[int]) -> None:
        """See that none of ours is one that the program shall have, as a daemon's may well be."""
        for index, end in enumerate(ends):
            if end <= FOLDER:
                import fcntl

                store(self._moved, fcntl.fcntl, end, fcntl.F_DUPFD_CLOEXEC, FOLDER + 1)
                ends[index], self._moved[0] = self._moved[0], end
                close_all(self._moved)


def kill_group(leader: int) -> None:
    """Kill a process and what it has started in its process group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # It has just ended; macOS calls that a lack of permission.


def _let_all_go() -> None:
    for reaper in list(_alive):
        reaper.let_go()


os.register_at_fork(after_in_child=_let_all_go)


def _ready(descriptor: int, events: int, timeout_ms: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(timeout_ms))


def _is_unreaped(child: int) -> bool:
    """Whether the pid is still that of our child: nobody has waited for it, be it dead or alive."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        return True
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # SIGCHLD is ignored in this process, or someone called os.wait().
        return False
    return True


def _reap(child: int) -> int | None:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return None
