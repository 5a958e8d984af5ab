"""Finds and removes what a killed owner has left when its reaper was killed as well."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from ..errors import CleanupError, RecordError
from ..system.interrupts import close_all, store
from .record import Record
from .run_directory import server_directories
from .server_directory import fifo_in, remove

# A killed server is gone in less than a millisecond, in seconds.
PATIENCE = 1.0


def remove_stale(run_directory: str, keep: str = "") -> tuple[int, list[CleanupError]]:
    """Remove what killed owners have left in a run directory that may be trusted.

    Return how many directories that were, and what cannot be removed. ``keep`` is left alone.
    """
    removed, problems = 0, []
    for path in server_directories(run_directory):
        if path != keep and not is_tended(path):
            try:
                removed += _clear(path)
            except CleanupError as problem:
                problems.append(problem)
    return removed, problems


def is_tended(path: str) -> bool:
    """Whether somebody lives who will remove a server's directory: its owner or the reaper.

    They have its FIFO open for reading. While it is being made nobody has.
    """
    end: list[int] = []
    try:
        store(end, os.open, fifo_in(path), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        # ENXIO: nobody reads, open(2). The others: there is no FIFO, or not even a directory.
        return error.errno not in (errno.ENXIO, errno.ENOENT, errno.ENOTDIR)
    finally:
        close_all(end)
    return True


def _clear(path: str) -> bool:
    """End the server of a stale directory, remove it and return whether that was done.

    A directory that another process is making or clearing is left. Raises CleanupError.
    """
    lock: list[int] = []
    try:
        _lock(path, lock)
        if is_tended(path):
            return False
        _end_server(path)
        remove(path)
        return True
    except (FileNotFoundError, BlockingIOError):
        return False
    finally:
        close_all(lock)


def _lock(path: str, lock: list[int]) -> None:
    """Lock a server's directory and append the descriptor to ``lock``.

    Raises FileNotFoundError. Raises BlockingIOError when another process has locked it, and
    CleanupError when it is no directory of this user.
    """
    try:
        store(lock, os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CleanupError(f"{path} is none of ours ({error.strerror}): remove it") from None
    if (owner := os.fstat(lock[0]).st_uid) != os.geteuid():
        raise CleanupError(f"{path} belongs to another user ({owner}): have it removed")
    fcntl.flock(lock[0], fcntl.LOCK_EX | fcntl.LOCK_NB)


def _end_server(path: str) -> None:
    reason, killed = "is not the one in its record", False
    try:
        killed = Record.read(path).server.kill()
    except (RecordError, FileNotFoundError) as error:
        said = error if isinstance(error, RecordError) else "has no record"
        reason = f"is not known: the directory {said}"
    if not has_ended(path, PATIENCE if killed else 0):
        raise CleanupError(
            f"{path} was left with a process that {reason}: find it with 'fuser {fifo_in(path)}', "
            "end it, then remove the directory"
        )


def has_ended(path: str, patience: float) -> bool:
    """Wait for the end of a directory's server and return whether it came, within seconds.

    As long as it lives it has the FIFO open for writing.
    """
    end: list[int] = []
    try:
        store(end, os.open, fifo_in(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        deadline = time.monotonic() + patience
        poll = select.poll()
        poll.register(end[0], select.POLLIN)
        while True:
            try:
                if not os.read(end[0], 65536):
                    return True
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0 or not poll.poll(left * 1000):
                    return False
    except FileNotFoundError:
        return True
    finally:
        close_all(end)
