"""The directory of one server, from its making to its removal."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

from ..errors import SandboxError, explain_limit
from ..system.interrupts import close_all, store
from ..system.reaper import FOLDER
from .run_directory import problem_of, run_directory

if TYPE_CHECKING:
    from ..system.processes import User

# All that comes into a server's directory: from us, and from memcached.
FILES = ["control", "fifo", "output", "record"]
FILES += [f"server/{name}" for name in ("pid", "pid.tmp", "port", "port.lck", "socket")]

# How often something else may come between us and a new directory before we give up.
ATTEMPTS = 20

REMEDY = "point TMPDIR to a folder that only you can write to"


class ServerDirectory:
    """A directory for one server, for its owner alone. Nothing is made before `make`.

    As long as anyone who will remove it lives, its FIFO has a reader: its owner or the reaper.
    One that is being made is locked, see flock(2). So it can be told from one that was left.
    """

    def __init__(self, user: User | None) -> None:
        self.user = user
        self.path = ""
        self._lock: list[int] = []  # the one descriptor that holds it, while it is held
        # As another user memcached may not pass through our directory. Linux lets it reach the
        # folder by the descriptor that it inherits; elsewhere the directories let it through.
        self._passable = user is not None and sys.platform != "linux"

    @property
    def folder(self) -> str:
        """Where memcached may write."""
        return os.path.join(self.path, "server")

    @property
    def folder_for_server(self) -> str:
        """The same, as memcached can reach it."""
        if self.user is None or self._passable:
            return self.folder
        return f"/proc/self/fd/{FOLDER}"

    @property
    def fifo(self) -> str:
        return fifo_in(self.path)

    @property
    def socket(self) -> str:
        return os.path.join(self.folder, "socket")

    @property
    def output(self) -> str:
        """What memcached prints."""
        return os.path.join(self.path, "output")

    def make(self) -> None:
        """Make the directory, in it the server's folder and the FIFO for its news.

        It is locked until `unlock`. Raises SandboxError; nothing is left then.
        """
        parent = run_directory()
        for _ in range(ATTEMPTS):
            try:
                self._make(parent)
                return
            except (FileNotFoundError, FileExistsError, BlockingIOError) as error:
                # The run directory was removed with the last server in it, or a cleanup
                # was faster than our lock, or the name is taken.
                self.remove()
                what = f"{error.strerror}, {ATTEMPTS} times; {REMEDY}"
            except OSError as error:
                self.remove()
                what = explain_limit(error) or f"{error.strerror}; {REMEDY}"
                break
            except BaseException:
                self.remove()
                raise
        raise SandboxError(f"no server's directory can be made in {parent}: {what}")

    def _make(self, parent: str) -> None:
        mode = 0o711 if self._passable else 0o700
        self.path = os.path.join(parent, os.urandom(4).hex())
        try:
            os.mkdir(parent, mode)
        except FileExistsError:
            # Whoever comes first may make this name in a shared folder: is it ours?
            if problem := problem_of(parent):
                self.path = ""  # nothing of it is ours to remove
                raise SandboxError(
                    f"the run directory {parent} {problem}: remove it, or {REMEDY}"
                ) from None
        try:
            os.mkdir(self.path, mode)
        except FileExistsError:
            self.path = ""
            raise
        store(self._lock, os.open, self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(self._lock[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkdir(self.folder, 0o700)
        os.mkfifo(self.fifo, 0o600)
        # memcached writes its pid to PIDFILE.tmp and its port to PORTFILE.lck, to rename them then:
        # save_pid() and main() in memcached.c. Both are names of the FIFO.
        for name in ("pid.tmp", "port.lck"):
            os.link(self.fifo, os.path.join(self.folder, name))
        if self.user is not None:
            os.chown(self.fifo, self.user.uid, self.user.gid)
            os.chown(self.folder, self.user.uid, self.user.gid)

    def unlock(self) -> None:
        """Let go of what is made: from now on somebody must have the FIFO open for reading."""
        close_all(self._lock)

    def remove(self) -> None:
        """Remove the directory, if it is there, with all that has come into it."""
        self.unlock()
        if self.path:
            remove(self.path)


def fifo_in(path: str) -> str:
    """Return the path of the FIFO in a server's directory."""
    return os.path.join(path, "fifo")


def remove(path: str) -> None:
    """Remove a server's directory, and the run directory if it was the last one."""
    if os.path.lexists(path):
        _remove_with_files(path)
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # Other servers have theirs in it.


def _remove_with_files(path: str) -> None:
    # By their names: to list a directory takes a descriptor, and there may be none left.
    for name in FILES:
        try:
            os.unlink(os.path.join(path, name))
        except OSError:
            pass  # It is not there, or rmdir() will find it.
    try:
        for folder in (os.path.join(path, "server"), path):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
    except OSError:
        # A program that is no memcached, or is killed with cores on, leaves files of its own.
        import shutil

        shutil.rmtree(path, ignore_errors=True)
