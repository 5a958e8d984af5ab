"""Finds the run directory of this user, in which each server has a directory of its own."""

from __future__ import annotations

import os
import stat
import sys

from ..errors import SandboxError

# sizeof(sun_path) less the closing zero: unix(7) on Linux, sys/un.h on macOS and the BSDs.
UNIX_PATH_LIMIT = 107 if sys.platform == "linux" else 103

# The longest path in the run directory is a control socket's: "/run-0a1b2c3d4e5f/socket".
LONGEST_TAIL = 24

# In memory: a start and stop in a folder on a disk may wait for that disk, for a millisecond or so.
SHARED_MEMORY = "/dev/shm"

# Where systemd runs, which this tells (sd_booted(3)), what a user has there goes away when they log
# out: RemoveIPC in logind.conf(5).
SYSTEMD = "/run/systemd/system"


def run_directory() -> str:
    """Returns the path of the run directory: $XDG_RUNTIME_DIR/memcached-sandbox-UID, or in $TMPDIR.

    Where neither is a folder that serves, it lies in /dev/shm, if there is one that lasts, or in
    /tmp. It need not be there yet, and is no longer when the last server has ended. Raises
    SandboxError.
    """
    for folder in folders():
        if _problem_of_folder(folder) is None:
            return run_directory_in(folder)
    reasons = "; ".join(problems_of_folders())
    raise SandboxError(
        f"no folder for the run directory: {reasons}; "
        "point TMPDIR to a folder that only you can write to"
    )


def folders() -> list[str]:
    """Returns the folders that are considered, the preferred first."""
    named = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR")
    lasting = os.path.isdir(SHARED_MEMORY) and not os.path.exists(SYSTEMD)
    common = [SHARED_MEMORY, "/tmp"] if lasting else ["/tmp"]
    return [*(os.path.abspath(folder) for folder in named if folder), *common]


def problems_of_folders() -> list[str]:
    """Returns which of them cannot hold the run directory, and why."""
    return [
        f"{folder} {problem}" for folder in folders() if (problem := _problem_of_folder(folder))
    ]


def run_directory_in(folder: str) -> str:
    """Returns what this user's run directory is called in a folder that others may use too."""
    return os.path.join(folder, f"memcached-sandbox-{os.geteuid()}")


def problem_of(directory: str) -> str | None:
    """Returns why a directory, a run directory by its name, is not to be trusted, or None."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is no directory"
    if status.st_uid != os.geteuid():
        return f"belongs to another user ({status.st_uid})"
    if status.st_mode & 0o022:
        return f"can be written by others (its mode is {stat.S_IMODE(status.st_mode):04o})"
    return None


def _problem_of_folder(folder: str) -> str | None:
    """Returns why a folder, which others may use too, cannot hold the run directory, or None."""
    try:
        status = os.stat(folder)
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written to"
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user ({status.st_uid})"
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        return "lets other users replace what is in it (its mode lacks the sticky bit)"
    size = len(os.fsencode(run_directory_in(folder))) + LONGEST_TAIL
    if size > UNIX_PATH_LIMIT:
        return (
            f"is too long for Unix sockets (their paths would have {size} bytes, "
            f"and may have {UNIX_PATH_LIMIT})"
        )
    return None
