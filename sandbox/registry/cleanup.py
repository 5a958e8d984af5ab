"""Removes what a killed owner has left when its reaper was killed as well.

What it kills or removes must be proved to be of this package and this user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CleanupError, RecordError
from .directories import LockedDirectory, ServerDirectory, directories

if TYPE_CHECKING:
    from .run_directory import RunDirectory


def remove_stale(run: RunDirectory) -> tuple[int, list[CleanupError]]:
    """Removes the stale directories in a run directory, and their servers.

    :returns: how many that were, and an error for each directory that cannot be removed.
    """
    removed, problems = 0, []
    for directory in stale_directories(run):
        try:
            removed += _remove(directory)
        except CleanupError as problem:
            problems.append(problem)
    return removed, problems


def stale_directories(run: RunDirectory) -> list[LockedDirectory]:
    """Returns the stale directories in a run directory, and what else is there by mistake."""
    return [directory for directory in directories(run) if not directory.is_alive()]


def _remove(directory: LockedDirectory) -> bool:
    """Kills the server of a stale directory, removes it and returns whether that was done.

    A directory that another process is creating or removing is left.

    :raises CleanupError: it is none of this package and user, or its server cannot be killed.
    """
    path = directory.path
    if type(directory) is LockedDirectory:
        raise CleanupError(f"{path} was not made by memcached-sandbox: remove it")
    try:
        try:
            directory.take_lock()
        except (FileNotFoundError, BlockingIOError):
            return False
        except OSError as error:
            raise CleanupError(
                f"{path} was not made by memcached-sandbox ({error.strerror}): remove it"
            ) from None
        if problem := directory.problem():
            raise CleanupError(f"{path} {problem}")
        if isinstance(directory, ServerDirectory):
            _end_server(directory)
        directory.remove()
        if directory.is_there():
            raise CleanupError(
                f"{path} has files in it that memcached-sandbox has not made: remove it"
            )
    finally:
        directory.close_fds()
    return True


def _end_server(directory: ServerDirectory) -> None:
    reason: str | None
    try:
        reason = directory.kill(directory.read_record().server, with_group=True)
    except (RecordError, FileNotFoundError) as error:
        problem = error if isinstance(error, RecordError) else "has no complete record"
        reason = None if directory.has_exited(0) else f"the directory {problem}"
    if reason:
        raise CleanupError(
            f"{directory.path} was left with a process that cannot be ended: {reason}; "
            f"find it with 'fuser {directory.fifo}', end it, then remove the directory"
        )
