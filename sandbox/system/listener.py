"""Proves that the process we started is the one that listens at an address.

The kernel's word is asked where it gives it, and ``stats``, which names the server's pid, where
it does not. They are equally good, but memcached sleeps 1 ms between opening its sockets and
answering its first command (``usleep(1000)`` in main() of memcached.c), and the kernel answers
in 0.1 ms.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from ..inject import protocol

# From linux/sock_diag.h, linux/inet_diag.h and linux/netlink.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
TCP_LISTEN = 10
NO_COOKIE = 0xFFFFFFFF


def listener_pid(address: str, suspect: int, timeout: float) -> int | None:
    """Return the pid of the process that listens at ``address``.

    When the kernel only tells that it is not the ``suspect``, the answer is None. ``timeout`` in
    seconds is for a server that has to be asked itself. Raises OSError and ProtocolError.
    """
    if sys.platform == "linux":
        try:
            if address.startswith("unix:"):
                return _unix_listener_pid(address[len("unix:") :])
            host, _, port = address.rpartition(":")
            inode = _tcp_listener_inode(host, int(port))
            return suspect if _has_socket(suspect, inode) else None
        except OSError:
            pass  # No socket diagnosis in this kernel or container: the server is asked.
    with protocol.Connection(address, timeout) as connection:
        return int(connection.stats()["pid"])


def _unix_listener_pid(path: str) -> int:
    # The peer of a fresh connection is the process that called listen(): unix(7), SO_PEERCRED.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("=iII", credentials)[0]
    return pid


def _tcp_listener_inode(host: str, port: int) -> int:
    """Ask for the one socket that listens at an IPv4 address: sock_diag(7), inet_diag_req_v2.

    Reading /proc/net/tcp instead takes over a millisecond: it walks the kernel's whole table.
    """
    request = (
        struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN)
        + struct.pack("!HH", port, 0)
        + socket.inet_aton(host).ljust(32, b"\0")
        + struct.pack("=III", 0, NO_COOKIE, NO_COOKIE)
    )
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)
        answer = kernel.recv(4096)
    _, kind, _, _, _ = struct.unpack_from("=IHHII", answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        raise OSError(-struct.unpack_from("=i", answer, 16)[0], "no such listener")
    inode: int = struct.unpack_from("=I", answer, 16 + 68)[0]
    return inode


def _has_socket(pid: int, inode: int) -> bool:
    """Whether the process holds the socket: proc(5), /proc/PID/fd."""
    folder = f"/proc/{pid}/fd"
    wanted = f"socket:[{inode}]"
    # Listening sockets are among the last that memcached opens.
    return any(
        os.readlink(f"{folder}/{descriptor}") == wanted
        for descriptor in sorted(os.listdir(folder), key=int, reverse=True)
    )
