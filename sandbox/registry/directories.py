"""Makes the directories of servers and runs in the run directory, and reads a server's record.

Each of them is locked by flock(2) while a process lives that will remove it: the owner, or the
reaper, which has inherited the lock. The kernel drops the lock with the last of them. A directory
that is not locked is stale.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import RecordError, SandboxError, explain_limit
from ..system import close_in_forks, no_fork
from ..system.processes import Identity
from ..system.reaper import FOLDER
from .run_directory import problem_of, run_directory

if TYPE_CHECKING:
    import pwd

# The first line of each record, with the version of its format.
HEADER = b"memcached-sandbox 2\n"

# How often to try to make a directory: its name may be taken, or a cleanup may be faster.
ATTEMPTS = 20

REMEDY = "point TMPDIR to a folder that only you can write to"

HEXADECIMAL = frozenset("0123456789abcdef")


class Record(NamedTuple):
    """Describes a server to other processes than its owner.

    Nothing in it is secret: the owner's command line, which may be, is asked of the kernel.

    control: the name of its run's control directory, or "".
    address: None until the server is ready.
    """

    owner: Identity
    server: Identity
    memory_mb: int
    control: str
    address: str | None

    @classmethod
    def parse(cls, text: bytes) -> Record:
        """Parses a record.

        :raises RecordError: it is no record, half of one, or that of another version.
        """
        if not text.startswith(HEADER):
            if text.startswith(HEADER.partition(b" ")[0]):
                raise RecordError("has the record of another version of memcached-sandbox")
            raise RecordError("has a record that is none of memcached-sandbox")
        try:
            # The address is last: a path may have any character in it.
            numbers, control, address = text[len(HEADER) :].split(b"\n", 2)
            owner_pid, owner_created, server_pid, server_created, memory_mb = numbers.split()
            return cls(
                Identity(int(owner_pid), float(owner_created)),
                Identity(int(server_pid), float(server_created)),
                int(memory_mb),
                os.fsdecode(control),
                os.fsdecode(address[:-1]) if address.endswith(b"\n") else None,
            )
        except ValueError:
            raise RecordError("has a record that was written only half") from None


class LockedDirectory:
    """Locks a directory in the run directory while a process lives that will remove it."""

    # Its name: a prefix and random bytes in hexadecimal.
    PREFIX = ""
    RANDOM_BYTES = 4

    mode = 0o700

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = -1  # the descriptor by which this process holds the lock
        close_in_forks(self)

    @property
    def name(self) -> str:
        """The last part of its path; for a server, the ID by which users know it."""
        return os.path.basename(self.path)

    @classmethod
    def new_name(cls) -> str:
        """Returns a name that no other directory has."""
        return cls.PREFIX + os.urandom(cls.RANDOM_BYTES).hex()

    @classmethod
    def is_named(cls, name: str) -> bool:
        """Returns whether a name is one that `new_name` may have made."""
        random = name[len(cls.PREFIX) :]
        return (
            name.startswith(cls.PREFIX)
            and len(random) == 2 * cls.RANDOM_BYTES
            and HEXADECIMAL.issuperset(random)
        )

    def make(self) -> None:
        """Makes the directory and locks it, in the run directory, which is made if it is missing.

        :raises FileExistsError: the name is taken, and nothing was done.
        :raises OSError: anything else; `remove` must follow.
        :raises SandboxError: the run directory cannot be trusted, and nothing was done.
        """
        run_directory = os.path.dirname(self.path)
        try:
            os.mkdir(run_directory, self.mode)
        except FileExistsError:
            # Another user may have created this name first: check its owner.
            if problem := problem_of(run_directory):
                raise SandboxError(
                    f"the run directory {run_directory} {problem}: remove it, or {REMEDY}"
                ) from None
        os.mkdir(self.path, self.mode)
        self.take_lock()

    def take_lock(self) -> None:
        """Locks the directory for this process.

        :raises BlockingIOError: another process has locked it.
        :raises OSError: it is not there, is no directory, or is a symbolic link.
        """
        self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self.is_there():
            raise FileNotFoundError(errno.ENOENT, "removed by a cleanup before it was locked")

    def is_there(self) -> bool:
        """Returns whether the directory that this process has locked has its path still."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.lock))
        except FileNotFoundError:
            return False

    def close_fds(self) -> None:
        """Closes this process's descriptor of the lock. The reaper has another."""
        if self.lock >= 0:
            descriptor, self.lock = self.lock, -1
            os.close(descriptor)

    def is_alive(self) -> bool:
        """Returns whether a process lives that will remove the directory."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            # It is gone, no directory, or a symbolic link: open(2). Otherwise it is not known.
            return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def remove(self) -> None:
        """Removes the directory, and the run directory if that is empty then."""
        if os.path.lexists(self.path):
            self._remove_files()
        for path in (self.path, os.path.dirname(self.path)):
            try:
                os.rmdir(path)
            except OSError:
                pass  # It is gone, or something else is in it.

    def _remove_files(self) -> None:
        raise NotImplementedError


class ControlDirectory(LockedDirectory):
    """Holds the control socket of one run, and its files of refused connections.

    The reapers of the run's servers remove it, too: they know its name before it is made. In a fork
    of its owner only the paths are of use.
    """

    PREFIX = "run-"
    RANDOM_BYTES = 6

    SOCKET = "socket"
    REFUSALS = "refusals"  # the names of several files begin so
    PATTERNS = (SOCKET, f"{REFUSALS}*")  # for a shell

    _is_made = False

    @classmethod
    def named(cls) -> ControlDirectory:
        """Returns one under a new name, which is not made yet.

        :raises SandboxError: there is no folder for the run directory.
        """
        return cls(os.path.join(run_directory(), cls.new_name()))

    def make_once(self) -> None:
        """Makes the directory, unless that was done already.

        :raises SandboxError: it cannot be made; nothing is left then.
        """
        if not self._is_made:
            _made(lambda: self)
            self._is_made = True

    def release(self) -> None:
        """Removes the directory, unless this process is a fork of the one that holds it."""
        if self.lock >= 0:
            self.remove()
            with no_fork:
                self.close_fds()

    @property
    def socket(self) -> str:
        """The path of the run's control socket."""
        return os.path.join(self.path, self.SOCKET)

    @property
    def refusals(self) -> str:
        """The path of the file in which processes report what the guard refused them."""
        return os.path.join(self.path, self.REFUSALS)

    def _remove_files(self) -> None:
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith((self.SOCKET, self.REFUSALS)):
                os.unlink(os.path.join(self.path, name))


class ServerDirectory(LockedDirectory):
    """Holds the FIFO, the record and the output of one server, and the folder it may write to."""

    FILES = ("fifo", "output", "record")
    FOLDER = "server"

    # memcached writes its port to PORTFILE.lck and its pid to PIDFILE.tmp and renames them then:
    # main() and save_pid() in memcached.c. Both are names of the FIFO.
    FIFO_NAMES = ("port.lck", "pid.tmp")
    FOLDER_FILES = (*FIFO_NAMES, "port", "pid", "socket")

    def __init__(self, path: str, user: pwd.struct_passwd | None = None) -> None:
        super().__init__(path)
        self.user = user
        # Another user may not pass through this directory. Linux lets memcached reach its folder
        # by the descriptor that it inherits; elsewhere the directories let it through.
        self._passable = user is not None and sys.platform != "linux"
        if self._passable:
            self.mode = 0o711

    @classmethod
    def create(cls, user: pwd.struct_passwd | None) -> ServerDirectory:
        """Makes one under a new name, with a FIFO and a folder that ``user`` may write to.

        :param user: the user that memcached becomes, or None for this process's own.
        :raises SandboxError: it cannot be made; nothing is left then.
        """
        parent = run_directory()
        return _made(lambda: cls(os.path.join(parent, cls.new_name()), user))

    def make(self) -> None:
        """Makes the directory with a FIFO, and with a folder for memcached."""
        super().make()
        os.mkdir(self.folder, 0o700)
        os.mkfifo(self.fifo, 0o600)
        for name in self.FIFO_NAMES:
            os.link(self.fifo, os.path.join(self.folder, name))
        if self.user is not None:
            os.chown(self.fifo, self.user.pw_uid, self.user.pw_gid)
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)

    @property
    def folder(self) -> str:
        """The folder that memcached may write to."""
        return os.path.join(self.path, self.FOLDER)

    @property
    def folder_for_server(self) -> str:
        """The same folder, by a path on which memcached can reach it."""
        if self.user is None or self._passable:
            return self.folder
        return f"/proc/self/fd/{FOLDER}"

    @property
    def fifo(self) -> str:
        """The path of the FIFO, to which memcached writes that it is ready."""
        return os.path.join(self.path, "fifo")

    @property
    def socket(self) -> str:
        """The path of memcached's Unix socket, if it listens on one."""
        return os.path.join(self.folder, "socket")

    @property
    def output(self) -> str:
        """The path of the file that memcached prints into."""
        return os.path.join(self.path, "output")

    @property
    def _record(self) -> str:
        return os.path.join(self.path, "record")

    def write_record(self, server_pid: int, memory_mb: int, control: str) -> None:
        """Writes the record of a server that this process has just started.

        :param control: the name of its run's control directory, or "".
        :raises OSError: the file cannot be written.
        """
        owner, server = Identity.of_this_process(), Identity.of_new_child(server_pid)
        numbers = f"{owner.pid} {owner.created:.6f} {server.pid} {server.created:.6f} {memory_mb}"
        with open(self._record, "xb", buffering=0) as record:
            record.write(b"%s%s\n%s\n" % (HEADER, numbers.encode(), control.encode()))

    def add_address(self, address: str) -> None:
        """Appends to the record where the server listens.

        :raises OSError: the file cannot be written.
        """
        with open(self._record, "ab", buffering=0) as record:
            record.write(os.fsencode(address) + b"\n")

    def read_record(self) -> Record:
        """Returns the record.

        :raises FileNotFoundError: there is none: the server is being started, or has ended.
        :raises RecordError: it cannot be read.
        """
        try:
            with open(self._record, "rb") as file:
                return Record.parse(file.read())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RecordError(f"has a record that cannot be read ({error.strerror})") from None

    def has_exited(self, patience: float) -> bool:
        """Returns whether the server has ended: nobody can write into its FIFO any more.

        :param patience: seconds to wait for that.
        """
        deadline = time.monotonic() + patience
        poll = select.poll()
        try:
            fifo = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            poll.register(fifo, select.POLLIN)
            while True:
                try:
                    if not os.read(fifo, 65536):
                        return True
                except BlockingIOError:
                    left = deadline - time.monotonic()
                    if left <= 0 or not poll.poll(left * 1000):
                        return False
        finally:
            os.close(fifo)

    def _remove_files(self) -> None:
        # By their names: to list a directory takes a descriptor, and there may be none left.
        files = [f"{self.FOLDER}/{name}" for name in self.FOLDER_FILES]
        for name in (*files, *self.FILES):
            try:
                os.unlink(os.path.join(self.path, name))
            except OSError:
                pass  # It is not there, or rmdir() will find it.
        try:
            os.rmdir(self.folder)
        except FileNotFoundError:
            pass
        except OSError:
            # A program that is no memcached may have left files of its own there.
            import shutil

            shutil.rmtree(self.folder, ignore_errors=True)


Directory = TypeVar("Directory", bound=LockedDirectory)


def _made(new: Callable[[], Directory]) -> Directory:
    """Returns a directory that was made, by another attempt if something came in between.

    :param new: returns the directory to make in an attempt.
    :raises SandboxError: it cannot be made; nothing is left then.
    """
    for _ in range(ATTEMPTS):
        directory = new()
        try:
            directory.make()
            return directory
        except FileExistsError as error:
            problem = error.strerror
        except (FileNotFoundError, BlockingIOError) as error:
            # The run directory went with its last server, or a cleanup was faster.
            directory.remove()
            directory.close_fds()
            problem = error.strerror
        except OSError as error:
            directory.remove()
            directory.close_fds()
            reason = explain_limit(error) or f"{error.strerror}; {REMEDY}"
            break
    else:
        reason = f"{problem}, {ATTEMPTS} times; {REMEDY}"
    raise SandboxError(f"no directory can be made in {os.path.dirname(directory.path)}: {reason}")


def directories(run_directory: str) -> list[LockedDirectory]:
    """Returns the directories in a run directory: none if it is not there.

    What has none of their names is returned as a plain `LockedDirectory`.
    """
    try:
        names = os.listdir(run_directory)
    except FileNotFoundError:
        return []
    found = []
    for name in sorted(names):
        kinds = (kind for kind in (ServerDirectory, ControlDirectory) if kind.is_named(name))
        found.append(next(kinds, LockedDirectory)(os.path.join(run_directory, name)))
    return found
