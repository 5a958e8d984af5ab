"""Looks at processes: which one it is, which one listens at an address, which user they run as.

Who listens is asked of the kernel where it tells, and of the server by ``stats`` elsewhere. Both
prove it. But memcached sleeps 1 ms between opening its sockets and answering its first command
(``usleep(1000)`` in main() of memcached.c), and the kernel answers in 0.1 ms.
"""

from __future__ import annotations

import _socket
import os
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from ..errors import StartError, explain_limit

if TYPE_CHECKING:
    import pwd

# From linux/sock_diag.h, linux/inet_diag.h and linux/netlink.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
TCP_LISTEN = 10
NO_COOKIE = 0xFFFFFFFF

# By how many seconds two readings of one process's creation may differ: the kernel keeps it since
# boot, and psutil takes the time of boot in whole seconds.
TOLERANCE = 2.0


class Identity(NamedTuple):
    """Identifies a process by its pid and its time of creation, in seconds since 1970."""

    pid: int
    created: float

    @classmethod
    def of_this_process(cls) -> Identity:
        """Returns the identity of this process."""
        return cls(os.getpid(), _created(os.getpid()))

    @classmethod
    def of_new_child(cls, pid: int) -> Identity:
        """Returns the identity of a process that has just been started."""
        return cls(pid, time.time())

    def is_running(self) -> bool:
        """Returns whether the process runs: a later one with its pid is another process."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # It is another user's.
        import psutil

        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and abs(process.create_time() - self.created) < TOLERANCE
        except psutil.Error:
            return False

    def kill(self, with_group: bool = False) -> bool:
        """Kills the process, and returns whether there was one to kill.

        :param with_group: kill its whole process group.
        """
        if not self.is_running():
            return False
        try:
            if with_group:
                os.killpg(os.getpgid(self.pid), signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return False  # It has just ended; macOS calls that a lack of permission.
        return True

    def command(self) -> list[str]:
        """Returns its command line; nothing if it does not run, or may not be looked at."""
        import psutil

        try:
            return psutil.Process(self.pid).cmdline() if self.is_running() else []
        except psutil.Error:
            return []


def _created(pid: int) -> float:
    """Returns what psutil's create_time() does, without the import: it takes longer than a start.

    :returns: seconds since 1970; 0 on a Linux without /proc, where psutil could not tell either.
    """
    if sys.platform != "linux":
        import psutil

        created: float = psutil.Process(pid).create_time()
        return created
    # The 22nd field, in clock ticks since boot: proc(5). The second, the name, may have spaces.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except FileNotFoundError:
        return 0
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def unprivileged_user() -> pwd.struct_passwd | None:
    """Returns the user that memcached must become, or None if this process is not root.

    :raises StartError: there is no such user.
    """
    if os.geteuid() != 0:
        return None
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


def listener_pid(peer: str | tuple[str, int], expected_pid: int, timeout: float) -> int | None:
    """Returns the pid of the process that listens at a path or an IPv4 address and a port.

    :param peer: what socket.connect() takes.
    :param expected_pid: the kernel only tells whether it is this one.
    :param timeout: seconds to wait for a server that has to be asked itself.
    :returns: None if it is not the expected one, and the kernel was asked.
    :raises OSError: nobody listens there, or answers.
    :raises ProtocolError: it is no memcached.
    """
    if sys.platform == "linux":
        try:
            if isinstance(peer, str):
                return _unix_listener_pid(peer)
            inode = _tcp_listener_inode(*peer)
            return expected_pid if _has_socket(expected_pid, inode) else None
        except OSError:
            pass  # No socket diagnosis in this kernel or container: the server is asked.
    from ..inject import protocol

    with protocol.Connection(peer, timeout) as connection:
        return int(connection.stats()["pid"])


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
    """Asks for the one socket that listens at an IPv4 address: sock_diag(7), inet_diag_req_v2.

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
    inode: int = struct.unpack_from("=I", answer, 16 + 68)[0]
    return inode


def _has_socket(pid: int, inode: int) -> bool:
    """Returns whether a process holds a socket: proc(5), /proc/PID/fd."""
    folder = f"/proc/{pid}/fd"
    wanted = f"socket:[{inode}]"
    # Listening sockets are among the last that memcached opens.
    return any(
        os.readlink(f"{folder}/{descriptor}") == wanted
        for descriptor in sorted(os.listdir(folder), key=int, reverse=True)
    )
