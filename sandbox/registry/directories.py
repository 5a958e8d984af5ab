"""Makes the directories of servers and runs in the run directory, and reads a server's record.

Each of them is locked by flock(2) while a process lives that will remove it: the owner, or the
reaper, which has inherited the lock. The kernel drops the lock with the last of them. A directory
that is not locked is stale.

The first file in each of them is its record, which says that this package has made the directory.
Without a record nothing in it is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import RecordError, SandboxError, explain_limit
from ..system import close_in_forks, deferred, no_fork
from ..system.processes import OWN_DESCRIPTORS, UNKNOWN, Identity
from ..system.reaper import FOLDER, is_readable
from .run_directory import DIRECTORY, REMEDY, RunDirectory, directory_mode, make_directory

if TYPE_CHECKING:
    import pwd

# The first line of each record, with the version of its format, and how that of any version begins.
HEADER = b"memcached-sandbox 4\n"
ANY_HEADER = b"memcached-sandbox "

RECORD = "record"

# What a record says of a server that is in no outage, and of others.
UP = "up"
OUTAGES = ("down", "hung", "full")

# Bytes of the longest record: its longest line is a path.
LONGEST_RECORD = 10_000

# Characters of the longest time of a start.
LONGEST_START = 20

# Begins the line between what one process of a server has printed and what the next one prints; and
# the whole line, if that one is full on purpose.
RESTARTED = b"memcached-sandbox: started again"
RESTARTED_FULL = RESTARTED + b" full"

# The only host at which a server listens.
LOOPBACK = "127.0.0.1"

# The highest pid and the largest memory in MB that a record may name.
LARGEST_NUMBER = 2**31 - 1

# Seconds to wait for the end of a killed server: it is gone in less than a millisecond.
PATIENCE = 1.0

# How often to try to make a directory: its name may be taken, or a cleanup may be faster.
ATTEMPTS = 20

HEXADECIMAL = frozenset("0123456789abcdef")


class Record(NamedTuple):
    """Describes a server to other processes than its owner.

    Nothing in it is secret: the owner's command line, which may be, is asked of the kernel.

    control: the name of its run's control directory, or "".
    address: None until the server is ready.
    outage: one of `OUTAGES` while its user has the server so, or "".
    """

    owner: Identity
    server: Identity
    memory_mb: int
    control: str
    address: str | None
    outage: str = ""

    @classmethod
    def parse(cls, text: bytes) -> Record:
        """Parses a record.

        :raises RecordError: it is no record, half of one, or that of another version.
        """
        if not text.startswith(HEADER):
            if text.startswith(ANY_HEADER):
                raise RecordError("has the record of another version of memcached-sandbox")
            raise RecordError("has a record that is none of memcached-sandbox")
        try:
            # The address is last: a path may have any character in it.
            numbers, control, address = text[len(HEADER) :].split(b"\n", 2)
            *identities, memory_mb, system, state = numbers.split()
            owner, owner_started, server, server_started = identities
            return cls(
                Identity(_number(owner), _start(owner_started), os.fsdecode(system)),
                Identity(_number(server), _start(server_started), os.fsdecode(system)),
                _number(memory_mb),
                os.fsdecode(control),
                os.fsdecode(address[:-1]) if address.endswith(b"\n") else None,
                _outage(state),
            )
        except ValueError:
            raise RecordError("has a record that was written only half, or changed") from None

    def text(self) -> bytes:
        """Returns it as `parse` reads it."""
        numbers = (
            f"{self.owner.pid} {self.owner.started} {self.server.pid} {self.server.started} "
            f"{self.memory_mb} {self.server.system} {self.outage or UP}\n{self.control}\n"
        )
        address = b"" if self.address is None else os.fsencode(self.address) + b"\n"
        return HEADER + numbers.encode() + address


class LockedDirectory:
    """Locks a directory in the run directory while a process lives that will remove it."""

    # Its name: a prefix and random bytes in hexadecimal.
    PREFIX = ""
    RANDOM_BYTES = 4

    mode = 0o700

    def __init__(self, run: RunDirectory, name: str) -> None:
        self.run = run
        self.name = name  # for a server, the ID by which users know it
        self.path = os.path.join(run.path, name)
        self.lock = -1  # the descriptor by which this process holds the lock
        close_in_forks(self)

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
        """Makes the directory and locks it.

        After an error nothing is left.

        :raises FileExistsError: the name is taken.
        :raises OSError: it cannot be made, or is removed at once.
        :raises SandboxError: the umask prevents it.
        """
        try:
            self._make()
        except BaseException:
            self.remove()
            self.close_fds()
            raise

    def _make(self) -> None:
        make_directory(self.name, self.run.fd, self.mode)
        try:
            self.take_lock()
            # From now on the path leads here, too: only this user moves what lies here.
            if not os.path.samestat(os.lstat(self.path), os.fstat(self.lock)):
                raise FileNotFoundError(errno.ENOENT, "another user has taken the path")
        except BaseException:
            with suppress(OSError):  # It is gone, or another process has put something there.
                os.rmdir(self.name, dir_fd=self.run.fd)
            raise
        with self._file(RECORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as record:
            os.write(record, HEADER)

    def take_lock(self) -> None:
        """Locks the directory for this process.

        :raises BlockingIOError: another process has locked it.
        :raises OSError: it is not there, is no directory, or is a symbolic link.
        """
        self.lock = self._open()
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self.is_there():
            raise FileNotFoundError(errno.ENOENT, "removed by a cleanup before it was locked")

    def _open(self) -> int:
        return os.open(self.name, DIRECTORY, dir_fd=self.run.fd)

    def is_there(self) -> bool:
        """Returns whether the directory that this process has locked has its name still."""
        try:
            status = os.stat(self.name, dir_fd=self.run.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(status, os.fstat(self.lock))

    def close_fds(self) -> None:
        """Closes this process's descriptor of the lock. The reaper has another."""
        if self.lock >= 0:
            descriptor, self.lock = self.lock, -1
            posix.close(descriptor)

    def is_alive(self) -> bool:
        """Returns whether a process lives that will remove the directory."""
        try:
            descriptor = self._open()
        except OSError as error:
            # It is gone, no directory, or a symbolic link: open(2). Otherwise it is not known.
            return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            posix.close(descriptor)
        return False

    def problem(self) -> str | None:
        """Returns why the directory, which this process has locked, may not be removed, or None.

        An empty one was left by an owner that was killed when it had just made it.
        """
        status = os.fstat(self.lock)
        if status.st_uid != os.geteuid():
            return f"belongs to another user ({status.st_uid}): have it removed"
        try:
            record = self._read_record()
        except FileNotFoundError:
            record = None
        except RecordError as error:
            return f"{error}: remove it"
        if record is None:
            is_ours = not os.listdir(self.lock)
        else:
            is_ours = record.startswith(ANY_HEADER) or HEADER.startswith(record)
        return None if is_ours else "has no record of memcached-sandbox: remove it"

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Opens the directory, unless this process has locked it, and so has it open."""
        if self.lock >= 0:
            yield self.lock
            return
        directory = self._open()
        try:
            yield directory
        finally:
            posix.close(directory)

    @contextmanager
    def _file(self, name: str, flags: int) -> Iterator[int]:
        """Opens a file in the directory, but follows no link."""
        with self._opened() as directory:
            file = os.open(
                name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode=0o600, dir_fd=directory
            )
        try:
            yield file
        finally:
            posix.close(file)

    def _read_record(self) -> bytes:
        """Returns the text of the record.

        :raises FileNotFoundError: there is none.
        :raises RecordError: it cannot be read.
        """
        try:
            with self._file(RECORD, os.O_RDONLY) as file:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise RecordError("has a record that is no file of this user")
                return posix.read(file, LONGEST_RECORD)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RecordError(f"has a record that cannot be read ({error.strerror})") from None

    def remove(self) -> None:
        """Removes the directory, and the run directory if that is empty then."""
        if self.lock >= 0 and self.is_there():
            self._remove_files()
            with suppress(OSError):  # Something else is in it.
                os.rmdir(self.name, dir_fd=self.run.fd)
        self.run.remove_if_empty()

    def _unlink(self, name: str) -> None:
        with suppress(OSError):  # It is not there, or rmdir() will find it.
            os.unlink(name, dir_fd=self.lock)

    def _remove_files(self) -> None:
        raise NotImplementedError


class ControlDirectory(LockedDirectory):
    """Holds the control socket of one run, and its files of refusals and of broken servers.

    The reapers of the run's servers remove it, too. In a fork of its owner only the paths are of
    use.
    """

    PREFIX = "run-"
    RANDOM_BYTES = 6

    SOCKET = "socket"
    REFUSALS = "refusals"  # the names of several files begin so
    BROKEN = "broken"  # the names of two files begin so: `sources.BROKEN`, and a new one
    PATTERNS = (SOCKET, f"{REFUSALS}*", f"{BROKEN}*", RECORD)  # for a shell

    @classmethod
    def create(cls) -> ControlDirectory:
        """Makes one under a new name.

        :raises SandboxError: it cannot be made; nothing is left then.
        """
        return _made(lambda: cls(RunDirectory.first(), cls.new_name()))

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
        for name in os.listdir(self.lock):
            if name.startswith((self.REFUSALS, self.BROKEN)):
                self._unlink(name)
        for name in (self.SOCKET, RECORD):
            self._unlink(name)


class ServerDirectory(LockedDirectory):
    """Holds the FIFO, the record and the output of one server, and the folder it may write to."""

    FOLDER = "server"
    FIFO = "fifo"
    OUTPUT = "output"
    NEW_RECORD = "record.new"
    FILES = (OUTPUT, FIFO, NEW_RECORD, RECORD)

    # memcached writes its port to PORTFILE.lck and its pid to PIDFILE.tmp and renames them then:
    # main() and save_pid() in memcached.c. Both are names of the FIFO.
    FIFO_NAMES = ("port.lck", "pid.tmp")
    FOLDER_FILES = (*FIFO_NAMES, "port", "pid", "socket")

    # In the order of their removal: without its record the directory is not known for one of these.
    CONTENTS = (FOLDER, *FILES)

    def __init__(self, run: RunDirectory, name: str, user: pwd.struct_passwd | None = None) -> None:
        super().__init__(run, name)
        self.user = user
        self.mode = directory_mode()

    @classmethod
    def create(
        cls, user: pwd.struct_passwd | None, run: RunDirectory | None = None
    ) -> ServerDirectory:
        """Makes one under a new name, with a FIFO and a folder that ``user`` may write to.

        :param user: the user that memcached becomes, or None for this process's own.
        :param run: where to make it; None for the first run directory that serves.
        :raises SandboxError: it cannot be made; nothing is left then.
        """
        return _made(lambda: cls(run or RunDirectory.first(), cls.new_name(), user))

    def _make(self) -> None:
        super()._make()
        make_directory(self.FOLDER, self.lock, 0o700)
        if os.mkfifo in os.supports_dir_fd:
            os.mkfifo(self.FIFO, 0o600, dir_fd=self.lock)
        else:  # macOS before 13
            os.mkfifo(self.fifo, 0o600)
        # What takes a descriptor comes first: nothing is left if there is none.
        with (
            self._file(self.FIFO, os.O_RDONLY) as fifo,
            self._file(self.FOLDER, DIRECTORY) as folder,
        ):
            if not stat.S_ISFIFO(os.fstat(fifo).st_mode):
                raise FileExistsError(errno.EEXIST, "another process has put a file there")
            self._link_fifo(folder)
            if self.user is not None:
                self._give_to(self.user, fifo, folder)

    def link_fifo(self) -> None:
        """Gives the FIFO the names again that an earlier memcached has renamed.

        :raises OSError: that cannot be done.
        """
        with self._file(self.FOLDER, DIRECTORY) as folder:
            for name in self.FOLDER_FILES:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            self._link_fifo(folder)

    def _link_fifo(self, folder: int) -> None:
        for name in self.FIFO_NAMES:
            os.link(
                *(self.FIFO, name),
                src_dir_fd=self.lock,
                dst_dir_fd=folder,
                follow_symlinks=False,
            )

    def _give_to(self, user: pwd.struct_passwd, *descriptors: int) -> None:
        """Gives FIFO and folder to the user that memcached becomes.

        A root that may not do so, or may not use them afterwards, serves as itself: in a container
        without CAP_CHOWN or CAP_DAC_OVERRIDE, or in a user namespace that does not map the user.
        """
        try:
            for descriptor in descriptors:
                os.fchown(descriptor, user.pw_uid, user.pw_gid)
            if os.access(self.FIFO, os.R_OK | os.W_OK, dir_fd=self.lock):
                return
            for descriptor in descriptors:
                os.fchown(descriptor, os.geteuid(), os.getegid())
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
        import pwd

        self.user = pwd.getpwuid(os.geteuid())

    @property
    def folder(self) -> str:
        """The folder that memcached may write to."""
        return os.path.join(self.path, self.FOLDER)

    @property
    def folder_for_server(self) -> str:
        """The same folder, by a path on which memcached can reach it."""
        if self.user is None or sys.platform != "linux":
            return self.folder
        return f"{OWN_DESCRIPTORS}/{FOLDER}"

    @property
    def fifo(self) -> str:
        """The path of the FIFO, to which memcached writes that it is ready."""
        return os.path.join(self.path, self.FIFO)

    @property
    def socket(self) -> str:
        """The path of memcached's Unix socket, if it listens on one."""
        return os.path.join(self.folder, "socket")

    @property
    def output(self) -> str:
        """The path of the file that memcached prints into."""
        return os.path.join(self.path, self.OUTPUT)

    def read_output(self, size: int) -> bytes:
        """Returns the end of what memcached has printed; b"" if its file is not there.

        :param size: how many bytes at most.
        """
        try:
            with deferred(), self._file(self.OUTPUT, os.O_RDONLY) as output:
                os.lseek(output, max(0, os.fstat(output).st_size - size), os.SEEK_SET)
                return posix.read(output, size)
        except FileNotFoundError:
            return b""

    def write_record(self, server_pid: int, memory_mb: int, control: str) -> None:
        """Writes the record of a server that this process has just started.

        :param control: the name of its run's control directory, or "".
        :raises OSError: the file cannot be written.
        """
        owner, server = Identity.of(os.getpid()), Identity.of(server_pid)
        record = Record(owner, server, memory_mb, control, None)
        self._append(record.text().removeprefix(HEADER))

    def add_address(self, address: str) -> None:
        """Appends to the record where the server listens.

        :raises OSError: the file cannot be written.
        """
        self._append(os.fsencode(address) + b"\n")

    def replace_record(
        self, server_pid: int, memory_mb: int, control: str, address: str, outage: str
    ) -> None:
        """Writes the record of a server anew, which a reader sees before or after that.

        :raises OSError: the file cannot be written.
        """
        owner, server = Identity.of(os.getpid()), Identity.of(server_pid)
        text = Record(owner, server, memory_mb, control, address, outage).text()
        new_file = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with deferred(), self._file(self.NEW_RECORD, new_file) as record:
            os.write(record, text)
            os.replace(self.NEW_RECORD, RECORD, src_dir_fd=self.lock, dst_dir_fd=self.lock)

    def append_output(self, text: bytes) -> None:
        """Writes something below what memcached has printed.

        :raises OSError: that cannot be done.
        """
        self._append(text, self.OUTPUT)

    def _append(self, text: bytes, name: str = RECORD) -> None:
        with deferred(), self._file(name, os.O_WRONLY | os.O_APPEND) as file:
            os.write(file, text)

    def read_record(self) -> Record:
        """Returns the record.

        :raises FileNotFoundError: there is none: the server is being started, or has ended.
        :raises RecordError: it cannot be read.
        """
        text = self._read_record()
        if text == HEADER:
            raise FileNotFoundError(errno.ENOENT, "nothing is recorded yet")
        record = Record.parse(text)
        place = record.address
        if place is None or place == f"unix:{self.socket}":
            return record
        from ..inject import address

        if not (place.startswith(f"{LOOPBACK}:") and address.is_complete(place)):
            raise RecordError("has a record with the address of no server")
        return record

    def kill(self, server: Identity, with_group: bool = False) -> str | None:
        """Kills the server of the record, and returns why it runs on, or None if it has ended.

        It must have this directory's FIFO open, where the kernel tells: a record may be forged.

        :param with_group: kill what the server has started, too.
        """
        killed = False
        with suppress(FileNotFoundError), self._opened() as directory:
            fifo = os.stat(self.FIFO, dir_fd=directory, follow_symlinks=False)
            killed = stat.S_ISFIFO(fifo.st_mode) and server.kill(fifo, with_group)
        if self.has_exited(PATIENCE if killed else 0):
            return None
        if killed:
            return f"process {server.pid} was killed, and has not ended yet"
        if server.started != UNKNOWN and not server.is_of_this_system:
            return "it runs in another PID namespace, such as a container's: stop it there"
        return f"nothing proves that process {server.pid} is the one in its record"

    def problem(self) -> str | None:
        """Returns why the directory, which this process has locked, may not be removed, or None."""
        if problem := super().problem():
            return problem
        for name, is_kind in ((self.FOLDER, stat.S_ISDIR), (self.FIFO, stat.S_ISFIFO)):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=self.lock, follow_symlinks=False)
                if not is_kind(status.st_mode):
                    return f"has a {name!r} in it that memcached-sandbox has not made: remove it"
        return None

    def has_exited(self, patience: float) -> bool:
        """Returns whether the server has ended: nobody can write into its FIFO any more.

        :param patience: seconds to wait for that.
        """
        deadline = time.monotonic() + patience
        try:
            with self._file(self.FIFO, os.O_RDONLY) as fifo:
                if not stat.S_ISFIFO(os.fstat(fifo).st_mode):
                    return False
                while True:
                    try:
                        if not posix.read(fifo, 65536):
                            return True
                    except BlockingIOError:
                        is_readable(fifo, deadline - time.monotonic())
                    if time.monotonic() > deadline:
                        return False
        except FileNotFoundError:
            return not self._is_running_as_recorded()
        except OSError:
            return False  # It is a link, for instance.

    def _is_running_as_recorded(self) -> bool:
        try:
            return self.read_record().server.is_running()
        except (FileNotFoundError, RecordError):
            return False

    def _remove_files(self) -> None:
        if not self._remove_folder():
            with suppress(OSError), self._file(self.FOLDER, DIRECTORY) as folder:
                for name in self.FOLDER_FILES:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
            if not self._remove_folder():
                # A program that is no memcached may have left files of its own there.
                import shutil

                shutil.rmtree(self.folder, ignore_errors=True)
        for name in self.FILES:
            self._unlink(name)

    def _remove_folder(self) -> bool:
        try:
            os.rmdir(self.FOLDER, dir_fd=self.lock)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True


Directory = TypeVar("Directory", bound=LockedDirectory)


def _made(new: Callable[[], Directory]) -> Directory:
    """Returns a directory that was made, by another attempt if something came in between.

    :param new: returns the directory to make in an attempt.
    :raises SandboxError: it cannot be made; nothing is left then.
    """
    where = ""
    for _ in range(ATTEMPTS):
        try:
            directory = new()
            where = f" in {directory.run.path}"
            directory.make()
            return directory
        except (FileExistsError, FileNotFoundError, BlockingIOError) as error:
            # The run directory went with its last server, or a cleanup or another user was faster.
            problem = f"{error.strerror}, {ATTEMPTS} times; {REMEDY}"
        except OSError as error:
            problem = explain_limit(error) or f"{error.strerror}; {REMEDY}"
            break
    raise SandboxError(f"no directory can be made{where}: {problem}")


def directories(run: RunDirectory) -> list[LockedDirectory]:
    """Returns the directories in a run directory.

    What has none of their names is returned as a plain `LockedDirectory`.
    """
    found = []
    for name in sorted(run.names()):
        kinds = (kind for kind in (ServerDirectory, ControlDirectory) if kind.is_named(name))
        found.append(next(kinds, LockedDirectory)(run, name))
    return found


def _number(text: bytes) -> int:
    number = int(text)
    if not 1 <= number <= LARGEST_NUMBER:
        raise ValueError(f"{number} is out of range")
    return number


def _outage(text: bytes) -> str:
    state = text.decode("ascii")
    if state not in (UP, *OUTAGES):
        raise ValueError(f"{state} is no state of a server")
    return state if state in OUTAGES else ""


def _start(text: bytes) -> str:
    start = text.decode("ascii")
    number = start if sys.platform == "linux" else start.replace(".", "", 1)
    if start != UNKNOWN and not (number.isdecimal() and len(start) <= LONGEST_START):
        raise ValueError(f"{start} is no start")
    return start
