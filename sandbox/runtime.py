"""The run directory of a server: its socket, its last words, the FIFO for its news."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from .errors import SandboxError, StartError
from .lifeline import FOLDER

PREFIX = "memcached-sandbox-"


class User(NamedTuple):
    """Who a server runs as when it is not ourselves."""

    name: str
    uid: int
    gid: int


def unprivileged_user() -> User | None:
    """Return whom memcached must become, or None when we are not root. Raises StartError."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StartError(
            "memcached must not run as root, and this system has no user 'nobody' to run it as: "
            "add one, or run as another user"
        ) from None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


class RunDirectory:
    """A new directory for one server, for its owner alone.

    It lies in $XDG_RUNTIME_DIR, which belongs to this user, or else in $TMPDIR or /tmp. Nothing
    is made before `make`.
    """

    def __init__(self, user: User | None) -> None:
        self.user = user
        self.path = os.path.join(_base(), PREFIX + os.urandom(6).hex())
        self.folder = os.path.join(self.path, "server")  # where memcached may write
        self.socket = os.path.join(self.folder, "socket")
        self.output = os.path.join(self.path, "output")
        self.fifo = os.path.join(self.folder, "pid.tmp")
        # As another user memcached may not pass through our directory. Linux lets it reach the
        # folder by the descriptor that it inherits; elsewhere the directory lets it through.
        self.closed = user is None or sys.platform == "linux"
        by_descriptor = user is not None and self.closed
        self.folder_for_server = f"/proc/self/fd/{FOLDER}" if by_descriptor else self.folder

    def make(self) -> None:
        """Make the directory, in it the server's folder, and in that the FIFO for its news.

        memcached writes its pid to PIDFILE.tmp and its port to PORTFILE.lck, to rename them then:
        save_pid() and main() in memcached.c. Both are names of the FIFO. Raises SandboxError.
        """
        try:
            # mkdir neither follows a link nor takes what is already there.
            os.mkdir(self.path, 0o700 if self.closed else 0o711)
            os.mkdir(self.folder, 0o700)
            os.mkfifo(self.fifo, 0o600)
            os.link(self.fifo, os.path.join(self.folder, "port.lck"))
            if self.user is not None:
                os.chown(self.fifo, self.user.uid, self.user.gid)
                os.chown(self.folder, self.user.uid, self.user.gid)
        except OSError as error:
            self.remove()
            raise SandboxError(
                f"the run directory {self.path} cannot be made: {error.strerror}; "
                "point TMPDIR to a folder that you can write to"
            ) from error

    def remove(self) -> None:
        """Remove the directory, if it is there, with all that has come into it."""
        for folder in (self.folder, self.path):
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if not entry.is_dir(follow_symlinks=False):
                            os.unlink(entry.path)
                os.rmdir(folder)
            except FileNotFoundError:
                pass


def _base() -> str:
    for base in (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp"):
        if base and os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK):
            return os.path.abspath(base)
    raise SandboxError(
        "no writable folder for the run directory: neither $XDG_RUNTIME_DIR, $TMPDIR nor /tmp "
        "is one; point TMPDIR to a folder that you can write to"
    )
