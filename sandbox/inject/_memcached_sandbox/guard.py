"""Refuses connections to the main memcached, and sees that those to sandbox servers send at once.

An audit hook sees every connect() of this process before it happens: blocking or not, by a thread,
by asyncio, or by a socket that gevent made. Clients in C call the system themselves: pylibmc and
libmc are asked for their addresses by `patches`, and others pass it by.
"""

from __future__ import annotations

import os
import sys

from .address import Address

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any

# The places that are guarded, and the alias of each, or "".
_guarded: dict[Address, str] = {}

# The places of sandbox servers.
_undelayed: set[Address] = set()

# The ports of all of these, and of those that were guarded once; with `AT_PATHS` if one is a path.
_ports: set[int] = set()

# Stands for the port of a Unix socket.
AT_PATHS = -1

# Names of this machine, beside those that end with ".localhost": RFC 6761, and Debian's and Red
# Hat's /etc/hosts.
NAMES = (
    "localhost",
    "localhost4",
    "localhost6",
    "localhost.localdomain",
    "localhost4.localdomain4",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
)

# The address of all interfaces, in two families, and that of the loopback interface in IPv6.
# Connecting to each leads to this machine.
ALL_INTERFACES = bytes(4)
ALL_INTERFACES_6 = bytes(16)
LOOPBACK_6 = bytes(15) + b"\1"

# The first byte of IPv4 addresses of the loopback interface: RFC 1122, section 3.2.1.3.
LOOPBACK = 127

_audits = False


def guarded() -> dict[Address, str]:
    """Returns what is guarded, for `restore`."""
    return dict(_guarded)


def restore(guarded: dict[Address, str]) -> None:
    """Guards this and nothing else."""
    _guarded.clear()
    _guarded.update(guarded)


def guard(text: str, alias: str = "") -> None:
    """Guards an address, too. An address of this machine is guarded by all names of it."""
    _see_connects()
    place = _place(Address(text))
    _guarded.setdefault(place, alias)
    _ports.add(_port(place))


def undelay(servers: Iterable[str]) -> None:
    """Turns off Nagle's algorithm for later connections to sandbox servers.

    With it the client's kernel holds back a second small write for 40 ms, if the first one was not
    answered. A flush between tests would come before that write.
    """
    # A Unix socket holds nothing back, and has no such option.
    places = {_place(address) for address in map(Address, servers) if address.host}
    if not places <= _undelayed:
        _undelayed.update(places)
        _ports.update(map(_port, places))
        _see_connects()


def check(address: Address) -> bool:
    """Refuses a guarded address to a client whose connects are not seen.

    :returns: whether it is that of a sandbox server, to which the client must send at once.
    :raises MainMemcachedRefused: it is guarded.
    """
    _refuse_guarded(address)
    return _place(address) in _undelayed


def _see_connects() -> None:
    global _audits  # noqa: PLW0603
    if not _audits:
        sys.addaudithook(_audit)  # There is no way to remove one.
        _audits = True


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        connection, peer = arguments
        address = _address(peer)
        if address is not None:
            _refuse_guarded(address)
            _undelay(connection, address)
    elif event == "socket.getaddrinfo":
        # A host counts by its name: once it is resolved nobody knows it any more.
        address = _address(arguments[:2])
        if address is not None:
            _refuse_guarded(address)


def _address(peer: object) -> Address | None:
    """Returns the address of what a program connects to; None if no place has such a port."""
    if isinstance(peer, tuple):
        try:
            host, port = peer[0], int(peer[1])
        except (LookupError, TypeError, ValueError):
            return None  # It is of another family, or getaddrinfo() is asked for no port.
        if port not in _ports:
            return None
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("ascii", "replace")
        return Address.at(host, port) if isinstance(host, str) else None
    if AT_PATHS not in _ports:
        return None
    if isinstance(peer, (bytearray, memoryview)):
        peer = bytes(peer)
    return Address.at_path(os.fsdecode(peer)) if isinstance(peer, (str, bytes)) else None


def _port(address: Address) -> int:
    """Returns the port, `AT_PATHS` at a path, and 0 for what is no number."""
    return AT_PATHS if address.path else int(address.port) if address.port.isdecimal() else 0


def _place(address: Address) -> Address:
    """Returns one address for all that lead to the same place, as far as their spelling tells."""
    if address.path:
        # The kernel reads it to its first NUL. One that begins with NUL is none of a file.
        path = address.path.partition("\0")[0]
        return Address.at_path(os.path.realpath(path)) if path else address
    host = "localhost" if _is_this_machine(address.host) else address.host
    return Address.at(host, _port(address))


def _is_this_machine(host: str) -> bool:
    """Returns whether a host, by name or by any IP address that libc reads, is this machine."""
    import _socket  # Not before: its import loads this module.

    numbers, _, _ = host.partition("%")
    try:
        if ":" in numbers:
            packed = _socket.inet_pton(_socket.AF_INET6, numbers)
        else:
            packed = _socket.inet_aton(numbers)  # 127.1 and 0x7f000001, too
    except (OSError, ValueError):
        name = host.rstrip(".")
        own = os.uname().nodename.lower()
        return name in NAMES or name == own or name.endswith(".localhost")
    if len(packed) == len(ALL_INTERFACES):
        return packed[0] == LOOPBACK or packed == ALL_INTERFACES
    return packed in (LOOPBACK_6, ALL_INTERFACES_6)


def _undelay(connection: Any, address: Address) -> None:
    import _socket

    if _place(address) in _undelayed and connection.type == _socket.SOCK_STREAM:
        connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def _refuse_guarded(address: Address) -> None:
    alias = _guarded.get(_place(address))
    if alias is None:
        return
    file, line = _culprit()
    from .errors import MainMemcachedRefused
    from .refusals import Refusal
    from .run import current_run

    current_run().report_refusal(Refusal(str(address), alias, f"{file}:{line}"))
    known = f", CACHES[{alias!r}]," if alias else ""
    raise MainMemcachedRefused(
        111,
        f"the sandbox refuses the connection to the main memcached at {address}{known} from "
        f"{file}:{line}: take the address from settings.CACHES or MEMCACHED_SANDBOX_ADDRESS, "
        "or turn the guard off, as --no-guard does",
    )


def _culprit() -> tuple[str, int]:
    """Returns file and line of the innermost frame that is no library's, or else the innermost."""
    frame: FrameType | None = sys._getframe(1)
    innermost = sys._getframe(1)
    here = os.path.dirname(__file__)
    library = os.path.dirname(os.__file__)
    while frame is not None:
        file = frame.f_code.co_filename
        if os.path.dirname(file) == here:
            innermost = frame.f_back or frame
        elif not file.startswith((library, "<")) and "site-packages" not in file:
            return file, frame.f_lineno
        frame = frame.f_back
    return innermost.f_code.co_filename, innermost.f_lineno
