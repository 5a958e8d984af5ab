"""Opens the run directory of this user, in which each server has a directory of its own.

Another user may write to the folder that it lies in, such as /tmp. So folder and run directory are
checked by their descriptors, and what is in them is reached through these. A name that was checked
may be another's when it is used.
"""

from __future__ import annotations

import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import stat
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress

from ..errors import RunDirectoryError, SandboxError, explain_limit
from ..system import close_in_forks

# sizeof(sun_path) less the closing zero: unix(7) on Linux, sys/un.h on macOS and the BSDs.
UNIX_PATH_LIMIT = 107 if sys.platform == "linux" else 103

# The longest path in the run directory is a control socket's: "/run-0a1b2c3d4e5f/socket".
LONGEST_TAIL = 24

# In memory: a start and stop in a folder on a disk may wait for that disk, for a millisecond or so.
SHARED_MEMORY = "/dev/shm"

# Where systemd runs, which this tells (sd_booted(3)), what a user has there goes away when they log
# out: RemoveIPC in logind.conf(5).
SYSTEMD = "/run/systemd/system"

REMEDY = "point TMPDIR to a folder that only you can write to"

REPLACEABLE = "lets other users replace what is in it (its mode lacks the sticky bit)"

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# A folder such as /tmp may not be readable. Linux opens it all the same: O_PATH in open(2).
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY

# What the kernel calls users that a user namespace does not map: user_namespaces(7).
UNMAPPED = 65534


class RunDirectory:
    """Holds open the run directory of this user in a folder: FOLDER/memcached-sandbox-UID.

    :param folder: a folder that others may use, too.
    :param make: make the run directory if it is missing.
    :raises RunDirectoryError: folder or run directory may be another user's.
    :raises FileNotFoundError: it is not there.
    :raises SandboxError: this process runs for one user with the rights of another.
    """

    def __init__(self, folder: str, make: bool = False) -> None:
        if os.getuid() != os.geteuid():
            raise SandboxError(
                f"this process has the rights of user {os.geteuid()} and runs for user "
                f"{os.getuid()}, which may be an attack: run it as one user"
            )
        # A link on the way may be another user's, and turned at any time.
        folder = os.path.realpath(folder)
        self.path = run_directory_in(folder)
        name = os.path.basename(self.path)
        parent = _open_folder(folder)
        made = False
        try:
            if make:
                try:
                    make_directory(name, parent, directory_mode())
                    made = True
                except FileExistsError:
                    pass  # Another user may have created it: its owner is checked.
            self.fd = self._open(name, parent)
        except BaseException:
            if made:
                with suppress(OSError):  # It is gone, or in use already.
                    os.rmdir(name, dir_fd=parent)
            raise
        finally:
            posix.close(parent)
        self._closer = weakref.finalize(self, posix.close, self.fd)
        self._closer.atexit = False
        close_in_forks(self)
        self._status = os.fstat(self.fd)
        if problem := _problem_of(self._status):
            raise RunDirectoryError(f"{self.path} {problem}")

    def _open(self, name: str, parent: int) -> int:
        try:
            return os.open(name, DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            raise
        except OSError as error:
            if explain_limit(error):
                raise
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            problem = _problem_of(status) or f"cannot be opened ({error.strerror})"
            raise RunDirectoryError(f"{self.path} {problem}") from None

    @property
    def is_open(self) -> bool:
        """Whether it is open still. In a fork it is not."""
        return self._closer.alive

    def close_fds(self) -> None:
        """Closes it."""
        self._closer()
        self.fd = -1

    @classmethod
    def first(cls) -> RunDirectory:
        """Opens the run directory in the first folder that serves, and makes it if it is missing.

        :raises SandboxError: there is no such folder.
        :raises OSError: it was removed meanwhile, or a limit of this machine is reached.
        """
        for folder in folders():
            try:
                return cls(folder, make=True)
            except RunDirectoryError:
                continue
        raise _no_folder()

    def names(self) -> list[str]:
        """Returns the names of all that is in it."""
        return os.listdir(self.fd)

    def remove_if_empty(self) -> None:
        """Removes it, if it has its path still and nothing is in it."""
        try:
            if os.path.samestat(os.lstat(self.path), self._status):
                os.rmdir(self.path)
        except OSError:
            pass  # It is gone, or something else is in it.


def run_directory() -> str:
    """Returns the path of the run directory: $XDG_RUNTIME_DIR/memcached-sandbox-UID, or in $TMPDIR.

    Where neither is a folder that serves, it lies in /dev/shm, if there is one that lasts, in /tmp
    or in ~/.cache. It need not be there yet, and is no longer when the last server has ended.

    :raises SandboxError: there is no folder that serves.
    """
    for folder, found in _looked_at():
        if not isinstance(found, RunDirectoryError):
            return run_directory_in(os.path.realpath(folder))
    raise _no_folder()


def run_directories() -> list[RunDirectory]:
    """Opens those run directories of this environment that are there and may be trusted."""
    return [found for _, found in _looked_at() if isinstance(found, RunDirectory)]


def problems() -> list[str]:
    """Returns which of the folders cannot hold the run directory, and why."""
    return [str(found) for _, found in _looked_at() if isinstance(found, RunDirectoryError)]


def _looked_at() -> Iterator[tuple[str, RunDirectory | RunDirectoryError | None]]:
    """Returns each folder with the run directory in it; None if that is not there yet."""
    for folder in folders():
        try:
            yield folder, RunDirectory(folder)
        except FileNotFoundError:
            yield folder, None
        except RunDirectoryError as error:
            yield folder, error


def folders() -> list[str]:
    """Returns the folders that are considered, the preferred first."""
    named = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR")
    lasting = os.path.isdir(SHARED_MEMORY) and not os.path.exists(SYSTEMD)
    common = [SHARED_MEMORY, "/tmp"] if lasting else ["/tmp"]
    # The last one is for a machine on which another user has taken the name in the others.
    folders = [*(os.path.abspath(folder) for folder in named if folder), *common, *_own_folders()]
    return [*dict.fromkeys(folders)]


def _own_folders() -> list[str]:
    caches = os.path.expanduser("~/.cache")
    return [caches] if os.path.isabs(caches) and os.path.isdir(caches) else []


def where() -> str:
    """Returns words for where sandboxes are looked for: in the folders of this environment."""
    return f"in {' or '.join(folders())}"


def run_directory_in(folder: str) -> str:
    """Returns what this user's run directory is called in a folder that others may use too."""
    return os.path.join(folder, f"memcached-sandbox-{os.geteuid()}")


def directory_mode() -> int:
    """Returns the mode of the directories on the way to the folder of memcached.

    Other users may not pass through them. Where root's memcached becomes another user, Linux lets
    it reach its folder by the descriptor that it inherits; elsewhere they let it through.
    """
    return 0o700 if os.geteuid() != 0 or sys.platform == "linux" else 0o711


def make_directory(name: str, parent: int, mode: int) -> None:
    """Makes a directory in the directory that a descriptor has open.

    :raises SandboxError: this process's umask takes rights from its owner.
    """
    os.mkdir(name, mode, dir_fd=parent)
    made = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if made & 0o700 != 0o700:
        os.rmdir(name, dir_fd=parent)
        raise SandboxError(
            "the umask of this process takes rights from the owner of new directories "
            f"(mode {mode:04o} became {stat.S_IMODE(made):04o}): set it to 077"
        )


def _no_folder() -> SandboxError:
    return SandboxError(f"no folder for the run directory: {'; '.join(problems())}; {REMEDY}")


def _problem_of(status: os.stat_result) -> str | None:
    """Returns why a directory, a run directory by its name, is not to be trusted, or None."""
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is no directory"
    if status.st_uid != os.geteuid():
        return f"belongs to another user ({_name(status.st_uid)})"
    if status.st_mode & 0o022:
        return f"can be written by others (its mode is {stat.S_IMODE(status.st_mode):04o})"
    return None


def _open_folder(folder: str) -> int:
    """Opens a folder that others may use too, and that can hold the run directory.

    :raises RunDirectoryError: it cannot.
    """
    try:
        descriptor = os.open(folder, FOLDER)
    except NotADirectoryError:
        raise RunDirectoryError(f"{folder} is no folder") from None
    except OSError as error:
        if explain_limit(error):
            raise
        raise RunDirectoryError(f"{folder} cannot be looked at ({error.strerror})") from None
    if problem := _problem_of_folder(folder, os.fstat(descriptor)):
        posix.close(descriptor)
        raise RunDirectoryError(f"{folder} {problem}")
    return descriptor


def _problem_of_folder(folder: str, status: os.stat_result) -> str | None:
    """Returns why a folder, which others may use too, cannot hold the run directory, or None."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written to"
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user ({_name(status.st_uid)})"
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        return REPLACEABLE
    above = os.path.dirname(folder)
    while above != os.path.dirname(above):
        status = os.stat(above)
        # What a user namespace does not map belongs to root, if it is above a folder of this user.
        if status.st_uid not in (0, os.geteuid(), UNMAPPED):
            return f"lies in {above}, which belongs to another user ({status.st_uid})"
        if status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX:
            return f"lies in {above}, which {REPLACEABLE}"
        above = os.path.dirname(above)
    size = len(os.fsencode(run_directory_in(folder))) + LONGEST_TAIL
    if size > UNIX_PATH_LIMIT:
        return (
            f"is too long for Unix sockets (their paths would have {size} bytes, "
            f"and may have {UNIX_PATH_LIMIT})"
        )
    return None


def _name(uid: int) -> str:
    unmapped = uid == UNMAPPED and sys.platform == "linux"
    return f"{uid}, perhaps one that this user namespace does not map" if unmapped else str(uid)
