"""Refuses connections to the main memcached, and sees that those to sandbox servers send at once.

In a worker it also refuses connections to the servers of other processes of the run.

An audit hook sees every connect() of this process before it happens: blocking or not, by a thread,
by asyncio, or by a socket that gevent made. Clients in C call the system themselves: pylibmc and
libmc are asked for their addresses by `patches`, and others pass it by.
"""

from __future__ import annotations

import os
import sys

from . import clients, hooks
from .address import Address

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any

# The places that are guarded, and the alias of each, or "".
_guarded: dict[Address, str] = {}

# The places of servers that other processes of this run use.
_captured: set[Address] = set()

# The ports of these and of sandbox servers, also of former ones; with `AT_PATHS` if one is a path.
_ports: set[int] = set()

# Stands for the port of a Unix socket.
AT_PATHS = -1

# Where the code of this package is in a process of a run, and that of libraries or of none.
HERE = os.path.join(os.path.dirname(__file__), "")
LIBRARY = os.path.dirname(os.__file__), "<"


def guarded() -> dict[Address, str]:
    """Returns what is guarded, for `restore`."""
    return dict(_guarded)


def restore(guarded: dict[Address, str]) -> None:
    """Guards this and nothing else."""
    _guarded.clear()
    _guarded.update(guarded)


def guard(text: str, alias: str = "") -> None:
    """Guards an address, too. An address of this machine is guarded by all names of it."""
    _guarded.setdefault(_watched(text), alias)


def capture(servers: Iterable[str]) -> None:
    """Refuses connections to these servers of other processes, and to none that it did before.

    A worker may know their addresses from its parent. This does not depend on `guard`.
    """
    _captured.clear()
    _captured.update(map(_watched, servers))


def undelay(servers: Iterable[str]) -> None:
    """Turns off Nagle's algorithm for later connections to sandbox servers.

    With it the client's kernel holds back a second small write for 40 ms, if the first one was not
    answered. A flush between tests would come before that write.
    """
    clients.places.update(map(_watched, servers))


def check(address: Address) -> bool:
    """Refuses what is guarded or captured to a client whose connects are not seen.

    :returns: whether it leads to a sandbox server, to which the client must send at once.
    :raises MainMemcachedRefused: it is refused.
    """
    place = address.place
    return _refuse(address, place) or place in clients.places


def open_to_others() -> list[tuple[Any, Address, str]]:
    """Returns the open sockets to servers of other processes, with address and "file:line"."""
    return [
        (connection, address, culprit)
        for connection, (address, place, culprit) in clients.connected()
        if place in _captured
    ]


def _watched(text: str) -> Address:
    """Returns the place of an address, once connects to its port are looked at."""
    hooks.watch("socket.connect", _see_connect)
    hooks.watch("socket.getaddrinfo", _see_lookup)
    place = Address(text).place
    _ports.add(AT_PATHS if place.path else int(place.port))
    return place


def _see_connect(_: str, arguments: tuple[Any, ...]) -> None:
    connection, peer = arguments
    address = _address(peer)
    if address is not None:
        place = address.place
        is_led = _refuse(address, place)
        if (is_led or place in clients.places) and _is_stream(connection):
            clients.undelay(connection)
            clients.remember(connection, address, place, culprit())


def _see_lookup(_: str, arguments: tuple[Any, ...]) -> None:
    # A host counts by its name: once it is resolved nobody knows it any more.
    address = _address(arguments[:2])
    if address is not None:
        _refuse(address, address.place)


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


def _is_stream(connection: Any) -> bool:
    import _socket  # Not before: its import loads this module.

    is_stream: bool = connection.type == _socket.SOCK_STREAM
    return is_stream


def _refuse(address: Address, place: Address) -> bool:
    """Refuses an address whose place is captured or guarded.

    :returns: whether the guard of the kernel leads the client to a sandbox server instead.
    """
    captured = place in _captured
    alias = "" if captured else _guarded.get(place)
    if alias is None:
        return False
    at = culprit()
    from .errors import MainMemcachedRefused, RunError
    from .refusals import CAPTURED, MAIN, Refusal
    from .run import current_run

    refusal = Refusal(str(address), alias, at, CAPTURED if captured else MAIN)
    try:
        if current_run().is_led(refusal):
            return True
        current_run().report_refusal(refusal)
    except RunError:
        pass  # It was printed. The connection is refused all the same.
    if captured:
        raise MainMemcachedRefused(
            111,
            f"the sandbox refuses the connection to {address}, a server of another process of the "
            f"run, from {at}: this address was captured before the fork; take it from "
            "settings.CACHES or MEMCACHED_SANDBOX_ADDRESS when the test runs",
        )
    known = f", CACHES[{alias!r}]," if alias else ""
    raise MainMemcachedRefused(
        111,
        f"the sandbox refuses the connection to the main memcached at {address}{known} from "
        f"{at}: take the address from settings.CACHES or MEMCACHED_SANDBOX_ADDRESS, "
        "or turn the guard off, as --no-guard does",
    )


def culprit() -> str:
    """Returns "file:line" of the innermost frame that is no library's, or else the innermost."""
    frame: FrameType | None = sys._getframe(1)
    innermost = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(HERE):
            innermost = frame.f_back or frame
        elif not file.startswith(LIBRARY) and "site-packages" not in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{innermost.f_code.co_filename}:{innermost.f_lineno}"
