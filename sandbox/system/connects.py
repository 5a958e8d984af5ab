"""Describes a connect(2) of another process, which waits for an answer: see `seccomp`."""

from __future__ import annotations

import _socket  # without what socket adds, whose import takes 3 ms
import errno
import os
import re
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import seccomp

if TYPE_CHECKING:
    from _memcached_sandbox.address import Peer

# How many bytes of an address are looked at: sizeof(struct sockaddr_un).
LONGEST_ADDRESS = 110

# An IPv6 address that stands for an IPv4 address begins so: RFC 4291, section 2.5.5.2.
MAPPED = bytes(10) + b"\xff\xff"

# The limits of this machine, which may be reached for a moment only.
LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# How a process spells the folders in /proc that are its own.
OWN = re.compile(r"^/(?:proc/(?:thread-)?self|dev(?=/fd/))(/.*)")

# How many processes to go up, at most, from a caller.
MOST_ANCESTORS = 64

# How much of a command line is told, in characters.
LONGEST_COMMAND = 120

# The call of a 32-bit program that connects by the call for all of sockets.
_X86 = seccomp.MACHINES["x86_64"]
SOCKETCALL_32 = _X86.socketcall_32, _X86.architecture_32


class Connect:
    """Describes one connect(2) whose caller waits for the answer.

    pid: the ID of the thread that calls, as this process knows it; 0 if it does not.
    host: an IP address, in network byte order; b"" for none. IPv4 within IPv6 is IPv4.
    port: in host byte order; 0 for none.
    scope: the number of the interface of a link-local IPv6 address.
    path: that of a Unix socket, as the caller spells it; b"" for none.

    All but the pid are known once `look` has returned.
    """

    def __init__(self, listener: int, request: bytes) -> None:
        self._listener = listener
        self.cookie, self.pid, _, self._number, self._architecture, _, *arguments = struct.unpack(
            seccomp.REQUEST, request
        )
        self._arguments = arguments
        self._pointer = 0
        self._address = b""
        self.host, self.port, self.scope, self.path = b"", 0, 0, b""

    def look(self) -> None:
        """Reads the address from the caller's memory.

        :raises OSError: the caller cannot be looked at.
        """
        descriptor, pointer, length, *_ = self._arguments
        with open(f"/proc/{self.pid}/mem", "rb", 0) as memory:
            try:
                if (self._number, self._architecture) == SOCKETCALL_32:
                    packed = os.pread(memory.fileno(), 12, pointer)
                    descriptor, pointer, length = struct.unpack("III", packed)
                size = min(length & 0xFFFFFFFF, LONGEST_ADDRESS)
                address = os.pread(memory.fileno(), size, pointer)
            except (OSError, struct.error, OverflowError):
                return  # Not the caller's memory: the kernel itself says EFAULT.
        self._descriptor, self._pointer, self._address = descriptor & 0xFFFFFFFF, pointer, address
        family = int.from_bytes(address[:2], sys.byteorder)
        if family == _socket.AF_UNIX:
            self.path = address[2:].partition(b"\0")[0]
        elif family == _socket.AF_INET and len(address) >= 8:
            self.host = address[4:8]
        elif family == _socket.AF_INET6 and len(address) >= 24:
            self.host = address[8:24].removeprefix(MAPPED)
            self.scope = int.from_bytes(address[24:28], sys.byteorder)
        if self.host:
            self.port = int.from_bytes(address[2:4], "big")

    @property
    def family(self) -> int:
        """The family of the host."""
        return _socket.AF_INET if len(self.host) == 4 else _socket.AF_INET6

    @property
    def address(self) -> str:
        """The address as text: ``host:port``, ``[host]:port`` or ``unix:path``."""
        if self.path:
            return f"unix:{os.fsdecode(self.path)}"
        host = _socket.inet_ntop(self.family, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def is_waiting(self) -> bool:
        """Returns whether the caller still waits: what was read by its pid is its own then."""
        return seccomp.control(self._listener, seccomp.ID_VALID, struct.pack("Q", self.cookie))

    def is_of_stream(self) -> bool:
        """Returns whether the socket may be a stream; getaddrinfo(3) connects datagram sockets.

        It does so to sort addresses, with the port that it was asked for.
        """
        try:
            place = f"/proc/{self.pid}/fd/{self._descriptor}"
            protocol = os.getxattr(place, "system.sockprotoname")
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT):
                return False  # It is no socket, or closed: the kernel itself says so.
            raise
        return not protocol.startswith((b"UDP", b"PING", b"RAW"))

    def is_in_own_network(self) -> bool:
        """Returns whether the caller is in the network namespace of this process."""
        return os.path.samestat(os.stat(f"/proc/{self.pid}/ns/net"), os.stat("/proc/self/ns/net"))

    def leads_to_file(self, path: str) -> bool:
        """Returns whether its path is another spelling of one that this process knows."""
        spelled = re.sub(OWN, rf"/proc/{self.pid}\1", os.fsdecode(self.path))
        folder = f"/proc/{self.pid}/{'root' if spelled.startswith('/') else 'cwd'}"
        os.stat(folder)
        try:
            return os.path.samestat(os.stat(f"{folder}/{spelled}"), os.stat(path))
        except OSError as error:
            if error.errno in LIMITS:
                raise
            return False  # It leads nowhere, for the caller as well: it has no other rights.

    def lead(self, peer: Peer) -> bool:
        """Writes another address over the caller's own, and returns whether that was done.

        :param peer: a path, for which the caller's own must have room, or an IPv4 address and a
            port. A socket of IPv6 gets the address that stands for it.
        """
        changed = self._address[:2]
        if isinstance(peer, str):
            room = len(self._address) - len(changed)
            changed += os.fsencode(peer).ljust(room, b"\0")
            if len(changed) > len(self._address):
                return False
        else:
            host, port = peer
            changed += port.to_bytes(2, "big")
            if int.from_bytes(self._address[:2], sys.byteorder) == _socket.AF_INET6:
                changed += self._address[4:8] + MAPPED
            changed += _socket.inet_aton(host)
        # Constants are written over, too, in the caller's own copy of their page: proc(5).
        try:
            with open(f"/proc/{self.pid}/mem", "r+b", 0) as memory:
                if not self.is_waiting():
                    return False
                return os.pwrite(memory.fileno(), changed, self._pointer) == len(changed)
        except OSError as error:
            if error.errno in LIMITS:
                raise
            return False

    def command(self) -> str:
        """Returns the caller's command line, or its beginning; "" if that is not told."""
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb", 0) as file:
                words = os.fsdecode(file.read(4 * LONGEST_COMMAND)).rstrip("\0").split("\0")
        except OSError:
            return ""
        command = " ".join(words)
        if len(command) <= LONGEST_COMMAND:
            return command
        return f"{command[: LONGEST_COMMAND - 3]}..."

    @property
    def process(self) -> int:
        """The pid of the caller's process; the ID of its thread if that is not told."""
        return next(self.processes(), self.pid)

    def socket(self) -> tuple[int, int]:
        """Returns the caller's process, and the inode of its socket."""
        try:
            inode = os.stat(f"/proc/{self.pid}/fd/{self._descriptor}").st_ino
        except FileNotFoundError:
            inode = 0  # It was closed meanwhile.
        return self.process, inode

    def processes(self) -> Iterator[int]:
        """Returns the pids of the caller's process and of its ancestors, the nearest one first."""
        pid = self.pid
        for _ in range(MOST_ANCESTORS):
            try:
                with open(f"/proc/{pid}/status", "rb", 0) as file:
                    lines = dict(line.split(b":\t", 1) for line in file.read().splitlines()[:12])
            except (OSError, ValueError):
                return
            yield int(lines[b"Tgid"])
            pid = int(lines[b"PPid"])
            if pid in (0, 1):
                return

    def environ(self) -> dict[str, str]:
        """Returns the variables with which the caller's program was started, if that is told."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb", 0) as file:
                entries = os.fsdecode(file.read()).split("\0")
        except OSError:
            return {}
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)
