"""Looks at processes: which one it is, which one listens at an address, which user they run as.

Who listens is asked of the kernel where it tells, and of the server by ``stats`` elsewhere. Both
prove it. But memcached sleeps 1 ms between opening its sockets and answering its first command
(``usleep(1000)`` in main() of memcached.c), and the kernel answers in 0.1 ms.
"""

from __future__ import annotations

import _socket
import errno
import functools
import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ..errors import StartError, explain_limit

if TYPE_CHECKING:
    import pwd

    from _memcached_sandbox.address import Peer
    from _memcached_sandbox.protocol import Tally

# From linux/sock_diag.h, linux/inet_diag.h and linux/netlink.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
TCP_LISTEN = 10
NO_COOKIE = 0xFFFFFFFF

# Where Linux shows a process its own descriptors: proc(5).
OWN_DESCRIPTORS = "/proc/self/fd"

# How a descriptor's link names a socket, before its inode: proc(5), /proc/PID/fd.
SOCKET_LINK = "socket:["

OTHER_PROCESS = "another process than the one that was started listens there"

# What stands for a start or a system that this machine does not tell.
UNKNOWN = "?"


class Identity(NamedTuple):
    """Identifies a process, so that a later one with its pid is not mistaken for it.

    started: when it was created. On Linux in clock ticks since boot, which a corrected clock leaves
        as they are, elsewhere in seconds since 1970. `UNKNOWN` on a Linux without /proc.
    system: where pid and start count: the IDs of boot and PID namespace, or `UNKNOWN`.
    """

    pid: int
    started: str
    system: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Returns the identity of a process that runs, or of a child that was not waited for."""
        return cls(pid, _status(pid)[1], _system())

    @property
    def is_of_this_system(self) -> bool:
        """Whether its pid is one of those that this process knows."""
        return self.system == _system() != UNKNOWN

    @property
    def order(self) -> tuple[float, int]:
        """A key to sort by: the oldest first; of the same clock tick, the lower pid."""
        return (0.0 if self.started == UNKNOWN else float(self.started)), self.pid

    def is_running(self) -> bool:
        """Returns whether it runs, as far as can be proved."""
        if not self.is_of_this_system or self.started == UNKNOWN:
            return False
        state, started = _status(self.pid)
        return started == self.started and state not in ("Z", "X")

    def kill(self, holding: os.stat_result, with_group: bool = False) -> bool:
        """Kills the process, and returns whether there was one to kill.

        :param holding: a file that it must have open, where the kernel tells.
        :param with_group: kill the other processes of its group first.
        """

        def is_it(_: int) -> bool:
            return self.is_running() and _holds(self.pid, holding)

        try:
            if with_group and is_it(self.pid):
                import psutil

                group = os.getpgid(self.pid)

                def is_member(pid: int) -> bool:
                    # The ID of a group is no other group's as long as one of it runs.
                    return os.getpgid(pid) == group and is_it(self.pid)

                for pid in psutil.pids():
                    if pid != self.pid:
                        _kill_if(pid, is_member)
            return _kill_if(self.pid, is_it)
        except ProcessLookupError:
            return False

    def command(self) -> list[str]:
        """Returns its command line; nothing if it does not run, or may not be looked at."""
        import psutil

        try:
            return psutil.Process(self.pid).cmdline() if self.is_running() else []
        except psutil.Error:
            return []

    def age(self) -> float | None:
        """Returns for how many seconds it has been there, or None if that is unknown."""
        if self.started == UNKNOWN:
            return None
        if sys.platform == "linux":
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            started = int(self.started) / os.sysconf("SC_CLK_TCK")
        else:
            now, started = time.time(), float(self.started)
        return max(0.0, now - started)


def _kill_if(pid: int, is_it: Callable[[int], bool]) -> bool:
    """Kills a process if it is the one that is meant, and returns whether that was done.

    Linux keeps a pidfd's process apart from a later one with its pid: pidfd_open(2). So it is
    opened before the process is looked at.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):
        pidfd = -1  # no Linux, or one before 5.3
    try:
        if not is_it(pid):
            return False
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False  # It has just ended; macOS calls that a lack of permission.
    finally:
        if pidfd >= 0:
            posix.close(pidfd)
    return True


def _holds(pid: int, wanted: os.stat_result) -> bool:
    """Returns whether a process has a file open: proc(5), /proc/PID/fd.

    Also returns True where that is not told: not on Linux, nor to a root without CAP_SYS_PTRACE.
    """
    folder = f"/proc/{pid}/fd"
    try:
        for descriptor in os.listdir(folder):
            try:
                if os.path.samestat(os.stat(f"{folder}/{descriptor}"), wanted):
                    return True
            except FileNotFoundError:
                continue  # It was closed meanwhile.
    except FileNotFoundError:
        return sys.platform != "linux"
    except PermissionError:
        return True
    return False


def _status(pid: int) -> tuple[str, str]:
    """Returns the state of a process and when it was started; both `UNKNOWN` if it is not there.

    psutil's import takes longer than a start.
    """
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            return "Z" if is_zombie else "R", f"{process.create_time():.6f}"
        except psutil.Error:
            return UNKNOWN, UNKNOWN
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return UNKNOWN, UNKNOWN
    # The 3rd and the 22nd field: proc(5). The second, the name, may have spaces and brackets.
    fields = text.rpartition(b")")[2].split()
    return fields[0].decode(), fields[19].decode()


def _system() -> str:
    """Returns what pids and starts of processes are counted in: `Identity.system`."""
    return _boot_and_namespace() if sys.platform == "linux" else sys.platform


@functools.cache
def _boot_and_namespace() -> str:
    """Returns the IDs of this boot and of the PID namespace of this process, or `UNKNOWN`."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            boot = file.read().decode().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except (FileNotFoundError, PermissionError):
        return UNKNOWN  # no /proc, or but a part of it


def shows_processes() -> bool:
    """Returns whether this system shows processes: on Linux, whether /proc is mounted."""
    return sys.platform != "linux" or os.path.isdir(OWN_DESCRIPTORS)


def unprivileged_user() -> pwd.struct_passwd | None:
    """Returns the user that memcached must become, or None if this process is not root.

    :raises StartError: there is no such user.
    """
    if os.geteuid() != 0:
        return None
    if not shows_processes():
        raise StartError(
            "root's memcached, which is another user's, reaches its files through /proc: "
            "mount /proc, or run as another user"
        )
    return _nobody()


@functools.cache
def _nobody() -> pwd.struct_passwd:
    import pwd

    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        # Python says the same when it has no descriptor left to read the list with.
        reached = _limit_of_reading("/etc/passwd")
        raise StartError(
            f"the user 'nobody' cannot be looked up: {reached}"
            if reached
            else "memcached must not run as root, and this system has no user 'nobody' to run it "
            "as: add one, or run as another user"
        ) from None


def _limit_of_reading(path: str) -> str | None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        return explain_limit(error)
    return None


def problem_of_listener(
    peer: Peer, pid: int, wanted: Mapping[str, str], timeout: float
) -> tuple[str | None, Tally | None]:
    """Returns why a process is not the one that listens at an address, and only there; or None.

    Also returns what the server was asked, if it had to be.

    :param peer: what socket.connect() takes: a path, or an IPv4 address and a port.
    :param pid: the process that must listen there.
    :param wanted: what ``stats settings`` must say of the address.
    :param timeout: seconds to wait for a server that has to be asked itself.
    :raises OSError: nobody listens there, or answers.
    :raises ProtocolError: it is no memcached.
    """
    try:
        if sys.platform == "linux":
            sockets = _sockets_of(pid)
            if isinstance(peer, str):
                is_listener = _unix_listener_pid(peer) == pid
            else:
                is_listener = _tcp_listener_inode(*peer) in sockets
            if not is_listener:
                return OTHER_PROCESS, None
            if len(sockets) == 1:
                return None, None
    except OSError:
        pass  # No socket diagnosis in this kernel or container: the server is asked.
    from ..inject import protocol

    asked = protocol.Tally()
    with protocol.Connection(peer, timeout, asked) as connection:
        if connection.stats().get("pid") != str(pid):
            return OTHER_PROCESS, asked
        settings = connection.stats("settings")
    found = {name: settings.get(name, UNKNOWN) for name in wanted}
    if found != wanted:
        settings_found = ", ".join(f"{name} {value}" for name, value in found.items())
        return f"its settings are {settings_found}", asked
    return None, asked


def _unix_listener_pid(path: str) -> int:
    # The peer of a fresh connection is the process that called listen(): unix(7), SO_PEERCRED.
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
        credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    finally:
        connection.close()
    pid: int = struct.unpack("=iII", credentials)[0]
    return pid


def _tcp_listener_inode(host: str, port: int) -> int:
    """Asks for the socket that listens at an IPv4 address: sock_diag(7), inet_diag_req_v2.

    Reading /proc/net/tcp instead takes over a millisecond: it walks the kernel's whole table.
    """
    request = (
        struct.pack("=BBBBI", _socket.AF_INET, _socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN)
        + struct.pack("!HH", port, 0)
        + _socket.inet_aton(host).ljust(32, b"\0")
        + struct.pack("=III", 0, NO_COOKIE, NO_COOKIE)
    )
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
    kernel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    try:
        kernel.send(header + request)
        answer = kernel.recv(4096)
    finally:
        kernel.close()
    _, kind, _, _, _ = struct.unpack_from("=IHHII", answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        raise OSError(-struct.unpack_from("=i", answer, 16)[0], "no such listener")
    # One that listens at all addresses of this machine is found, too.
    family, source = answer[16], answer[16 + 8 : 16 + 12]
    if family != _socket.AF_INET or source != _socket.inet_aton(host):
        raise OSError(errno.EADDRNOTAVAIL, "the listener listens elsewhere, too")
    inode: int = struct.unpack_from("=I", answer, 16 + 68)[0]
    return inode


def _sockets_of(pid: int) -> list[int]:
    """Returns the inodes of the sockets that a process holds: proc(5), /proc/PID/fd."""
    folder = f"/proc/{pid}/fd"
    links = []
    for descriptor in os.listdir(folder):
        with suppress(FileNotFoundError):  # It was closed meanwhile.
            links.append(os.readlink(f"{folder}/{descriptor}"))
    return [int(link[len(SOCKET_LINK) : -1]) for link in links if link.startswith(SOCKET_LINK)]
