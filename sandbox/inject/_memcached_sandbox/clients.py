"""Knows the Python clients of sandbox servers, from their connect on."""

from __future__ import annotations

import sys

from .address import Address

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    import weakref
    from collections.abc import Collection, Iterator
    from typing import Any

# The places of sandbox servers.
places: set[Address] = set()

# The sockets of their clients: the address of each, its place, and from where, as "file:line". This
# package's own sockets are missing: there are no weak references to them.
_connected: weakref.WeakKeyDictionary[Any, tuple[Address, Address, str]] | None = None

# Where struct tcp_info of linux/tcp.h has the number of segments that were not acknowledged, and of
# bytes that were not sent; and its end, as far as it is needed.
UNACKNOWLEDGED, UNSENT, END_OF_INFO = 24, 144, 148


def undelay(connection: Any) -> None:
    """Turns off Nagle's algorithm."""
    import _socket  # Not before: its import loads this module.

    if connection.family != _socket.AF_UNIX:
        connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def remember(connection: Any, address: Address, place: Address, culprit: str) -> None:
    """Remembers the socket of a client.

    :param culprit: where it connects, as "file:line".
    """
    global _connected  # noqa: PLW0603
    import weakref  # Many processes connect to no server.

    if _connected is None:
        _connected = weakref.WeakKeyDictionary()
    try:
        _connected[connection] = address, place, culprit
    except TypeError:
        pass


def held_back(servers: Collection[str]) -> set[str]:
    """Returns those of the servers to which clients have sent what the kernel holds back.

    It does after a loss: thousands of small writes may overflow the buffer of the server's socket.
    A server that has read all leaves at most one segment without an acknowledgement.

    :param servers: their addresses.
    """
    import _socket  # Not before: its import loads this module.

    found: set[str] = set()
    if not _connected or sys.platform != "linux":
        return found
    wanted = {Address(server).place: server for server in servers}
    for connection, (_, place, _) in connected():
        if place not in wanted or place.path:
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
            found.add(wanted[place])
    return found


def connected() -> Iterator[tuple[Any, tuple[Address, Address, str]]]:
    """Returns the sockets that are open, with address, place and "file:line"."""
    # Other threads may connect meanwhile.
    for reference in _connected.keyrefs() if _connected else ():
        connection = reference()
        entry = None if connection is None or not _connected else _connected.get(connection)
        if entry is not None and connection.fileno() != -1:
            yield connection, entry
