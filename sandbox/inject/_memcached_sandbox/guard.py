"""Refuses connections to the main memcached, and sees that those to sandbox servers send at once.

In a worker it also refuses connections to the servers of other processes of the run.

An audit hook sees every connect() of this process before it happens: blocking or not, by a thread,
by asyncio, or by a socket that gevent made. Only clients in C that call the system themselves, such
as pylibmc, pass it by.
"""

from __future__ import annotations

import os
import sys

from .address import Address

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    import weakref
    from collections.abc import Collection, Iterable, Iterator
    from types import FrameType
    from typing import Any

# The addresses that are guarded, and the alias of each, or "".
_guarded: dict[Address, str] = {}

# The addresses of servers that other processes of this run use.
_captured: set[Address] = set()

# The hosts by which clients reach this machine. The last two are for servers, but connect to it.
THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")

# The addresses of sandbox servers.
_undelayed: set[Address] = set()

# The sockets of Python clients of sandbox servers: the address of each, and from where, as
# "file:line". This package's own sockets are missing: there are no weak references to them.
_connected: weakref.WeakKeyDictionary[Any, tuple[Address, str]] | None = None

# Where struct tcp_info of linux/tcp.h has the number of segments that were not acknowledged, and of
# bytes that were not sent; and its end, as far as it is needed.
UNACKNOWLEDGED, UNSENT, END_OF_INFO = 24, 144, 148

# Where the code of this package is in a process of a run, and that of libraries or of none.
HERE = os.path.join(os.path.dirname(__file__), "")
LIBRARY = os.path.dirname(os.__file__), "<"

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
    address = Address(text)
    _guarded.setdefault(address, alias)
    if address.host in THIS_MACHINE:
        for host in THIS_MACHINE:
            _guarded.setdefault(Address.at(host, address.port), alias)


def capture(servers: Iterable[str]) -> None:
    """Refuses connections to these servers of other processes, and to none that it did before.

    A worker may know their addresses from its parent. This does not depend on `guard`.
    """
    _captured.clear()
    for address in map(Address, servers):
        _see_connects()
        _captured.add(address)
        if address.port:
            _captured.update(Address.at(host, address.port) for host in THIS_MACHINE)


def undelay(servers: Iterable[str]) -> None:
    """Turns off Nagle's algorithm for later connections to sandbox servers.

    With it the client's kernel holds back a second small write for 40 ms, if the first one was not
    answered. A flush between tests would come before that write.
    """
    addresses = {Address(server) for server in servers}
    if not addresses <= _undelayed:
        _undelayed.update(addresses)
        _see_connects()


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
            if address in _undelayed and _is_stream(connection):
                _undelay(connection)
                _remember(connection, address)
    elif event == "socket.getaddrinfo":
        # A host counts by its name: once it is resolved nobody knows it any more.
        address = _address(arguments[:2])
        if address is not None:
            _refuse_guarded(address)


def _address(peer: object) -> Address | None:
    """Returns the address of what a program connects to; None for what is no address."""
    if isinstance(peer, (str, bytes)):
        return Address.at_path(os.fsdecode(peer))
    if not isinstance(peer, tuple):
        return None
    host = peer[0].decode("ascii", "replace") if isinstance(peer[0], bytes) else peer[0]
    return Address.at(host, peer[1]) if isinstance(host, str) else None


def _is_stream(connection: Any) -> bool:
    import _socket  # Not before: its import loads this module.

    is_stream: bool = connection.type == _socket.SOCK_STREAM
    return is_stream


def _undelay(connection: Any) -> None:
    import _socket  # Not before: its import loads this module.

    if connection.family != _socket.AF_UNIX:
        connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def _remember(connection: Any, address: Address) -> None:
    global _connected  # noqa: PLW0603
    import weakref  # Many processes connect to no server.

    if _connected is None:
        _connected = weakref.WeakKeyDictionary()
    file, line = _culprit()
    try:
        _connected[connection] = address, f"{file}:{line}"
    except TypeError:
        pass


def held_back(servers: Collection[str]) -> set[str]:
    """Returns those of the servers to which Python clients have sent what the kernel holds back.

    It does after a loss: thousands of small writes may overflow the buffer of the server's socket.
    A server that has read all leaves at most one segment without an acknowledgement.
    """
    import _socket  # Not before: its import loads this module.

    found: set[str] = set()
    for connection, (address, _) in _open() if sys.platform == "linux" else ():
        if address not in servers or not address.port:
            continue
        try:
            info = connection.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, END_OF_INFO)
        except OSError:
            continue  # It was closed meanwhile, and its number may be that of something else.
        unacknowledged, unsent = (
            int.from_bytes(info[start : start + 4], sys.byteorder)
            for start in (UNACKNOWLEDGED, UNSENT)
        )
        if unacknowledged > 1 or unsent:
            found.add(address)
    return found


def open_to_others() -> list[tuple[Any, Address, str]]:
    """Returns the open sockets to servers of other processes, with address and "file:line"."""
    return [(connection, *entry) for connection, entry in _open() if entry[0] in _captured]


def _open() -> Iterator[tuple[Any, tuple[Address, str]]]:
    """Returns the sockets in `_connected` that are open. Other threads may connect meanwhile."""
    for reference in _connected.keyrefs() if _connected else ():
        connection = reference()
        entry = None if connection is None or not _connected else _connected.get(connection)
        if entry is not None and connection.fileno() != -1:
            yield connection, entry


def _refuse_guarded(address: Address) -> None:
    captured = address in _captured
    alias = "" if captured else _guarded.get(address)
    if alias is None:
        return
    file, line = _culprit()
    from .errors import MainMemcachedRefused
    from .refusals import CAPTURED, MAIN, Refusal
    from .run import current_run

    kind = CAPTURED if captured else MAIN
    current_run().report_refusal(Refusal(str(address), alias, f"{file}:{line}", kind))
    if captured:
        raise MainMemcachedRefused(
            111,
            f"the sandbox refuses the connection to {address}, a server of another process of the "
            f"run, from {file}:{line}: this address was captured before the fork; take it from "
            "settings.CACHES or MEMCACHED_SANDBOX_ADDRESS when the test runs",
        )
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
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(HERE):
            innermost = frame.f_back or frame
        elif not file.startswith(LIBRARY) and "site-packages" not in file:
            return file, frame.f_lineno
        frame = frame.f_back
    return innermost.f_code.co_filename, innermost.f_lineno
