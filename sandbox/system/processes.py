"""Identifies processes by pid and creation time, and the user that memcached runs as."""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import NamedTuple

from ..errors import StartError, explain_limit
from .reaper import kill_group

# By how many seconds two readings of one process's creation may differ: the kernel keeps it since
# boot, and psutil takes the time of boot in whole seconds.
TOLERANCE = 2.0


class Identity(NamedTuple):
    """A process by its pid and its time of creation, in seconds since 1970."""

    pid: int
    created: float

    @classmethod
    def of_this_process(cls) -> Identity:
        return cls(os.getpid(), _created(os.getpid()))

    @classmethod
    def of_new_child(cls, pid: int) -> Identity:
        """Return that of a process which we have started just now."""
        return cls(pid, time.time())

    def is_running(self) -> bool:
        """Whether the pid is still that of this process, and of no later one."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # Another user's: memcached is, when we are not root any more.
        import psutil

        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and abs(process.create_time() - self.created) < TOLERANCE
        except psutil.Error:
            return False

    def kill(self) -> bool:
        """Kill the process and its process group, and return whether there was one to kill."""
        running = self.is_running()
        if running:
            kill_group(self.pid)
        return running

    def command(self) -> list[str]:
        """Return its command line; nothing when it does not run, or may not be looked at."""
        import psutil

        try:
            return psutil.Process(self.pid).cmdline() if self.is_running() else []
        except psutil.Error:
            return []


@functools.cache  # a process asks for itself only, and a fork has another pid
def _created(pid: int) -> float:
    """As psutil's create_time(), whose import would take three times what a server's start does.

    0 on a Linux without /proc, where psutil could not tell either.
    """
    if sys.platform != "linux":
        import psutil

        created: float = psutil.Process(pid).create_time()
        return created
    # The 22nd field, in clock ticks since boot: proc(5). The second, the name, may have spaces.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except FileNotFoundError:
        return 0
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + ticks / os.sysconf("SC_CLK_TCK")


class User(NamedTuple):
    """The user that memcached runs as when this process is root."""

    name: str
    uid: int
    gid: int


def unprivileged_user() -> User | None:
    """Return the user that memcached must become, or None when this process is not root.

    Raises StartError.
    """
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        # Python says the same when it has no descriptor left to read the list with.
        reached = _limit_of_reading("/etc/passwd")
        raise StartError(
            f"the user 'nobody' cannot be looked up: {reached}"
            if reached
            else "memcached must not run as root, and this system has no user 'nobody' to run it "
            "as: add one, or run as another user"
        ) from None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _limit_of_reading(path: str) -> str | None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        return explain_limit(error)
    return None
