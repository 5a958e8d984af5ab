"""Opens the log of a server, and locks what this process will read of it."""

from __future__ import annotations

import fcntl
import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import stat
import struct
import sys

from ..errors import ServerError

# Gives a part of a file back to its file system, and keeps the size: fallocate(2).
PUNCH_HOLE = 0x02 | 0x01


def open_log(path: str) -> int:
    """Opens a log.

    :raises ServerError: it is gone, or belongs to another user.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ServerError(f"memcached's log {path} cannot be read: {error.strerror}") from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        posix.close(file)
        raise ServerError(f"memcached's log {path} belongs to another user")
    return file


# Locks belong to the open file: "Open file description locks" in fcntl(2). Where there are none,
# flock(2) tells who traces, but not what they have read.
if sys.platform == "linux":

    def _lock_range(file: int, kind: int, start: int, end: int, waits: bool = False) -> None:
        command = fcntl.F_OFD_SETLKW if waits else fcntl.F_OFD_SETLK
        # struct flock; a length of 0 is up to the end, wherever that will be.
        fcntl.fcntl(file, command, struct.pack("hhqqi", kind, os.SEEK_SET, start, end - start, 0))

    def move_lock(file: int, position: int) -> None:
        """Locks a log from a place on, and unlocks it before."""
        _lock_range(file, fcntl.F_RDLCK, position, position, waits=True)
        if position:
            _lock_range(file, fcntl.F_UNLCK, 0, position)

    def lock_alone(file: int) -> bool:
        """Unlocks a log, and locks it for this process alone if no other one has it locked."""
        _lock_range(file, fcntl.F_UNLCK, 0, 0)
        try:
            _lock_range(file, fcntl.F_WRLCK, 0, 0)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def cut(file: int, position: int) -> None:
        """Gives back what lies before a place, unless another process will read it."""
        if not position:
            return
        try:
            _lock_range(file, fcntl.F_WRLCK, 0, position)
        except (BlockingIOError, PermissionError):
            return
        import ctypes

        # A file system that cannot do it keeps the file whole.
        ctypes.CDLL(None).fallocate(
            file, PUNCH_HOLE, ctypes.c_longlong(0), ctypes.c_longlong(position)
        )
        _lock_range(file, fcntl.F_UNLCK, 0, position)

else:

    def move_lock(file: int, position: int) -> None:  # noqa: ARG001
        """Locks a log."""
        fcntl.flock(file, fcntl.LOCK_SH)

    def lock_alone(file: int) -> bool:
        """Locks a log for this process alone if no other one has it locked."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def cut(file: int, position: int) -> None:
        """Does nothing: the kernel does not tell what other processes have read."""
