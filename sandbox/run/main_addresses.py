"""Knows the main addresses of a run, however a program spells them when it connects."""

from __future__ import annotations

import _socket
import threading
import time
from typing import TYPE_CHECKING

from ..inject import address
from ..system.connects import LIMITS

if TYPE_CHECKING:
    from typing import TypeAlias

    from ..system.connects import Connect

    Host: TypeAlias = "tuple[bytes, int]"  # an IP address in network byte order, and a port
    # A thread that looks a name up, and until when it may be waited for, of the monotonic clock.
    Lookup: TypeAlias = "tuple[threading.Thread, float]"

# Any port: no packet is sent to find the way to a host.
ANY_PORT = 9

# Seconds after its begin that a lookup of a host's name may be waited for.
LOOKUP_TIME = 2.0


class MainAddresses:
    """Finds the main address that a connect leads to. Names of hosts are looked up meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Those of this machine by their port, others by IP address and port, and by path.
        self._here: dict[int, str] = {}
        self._hosts: dict[Host, str] = {}
        self._paths: dict[str, str] = {}
        self._places: dict[str, str] = {}  # all of these
        self._ports: frozenset[int] = frozenset()  # of the first two
        self._lookups: dict[address.Address, Lookup] = {}  # by the places of hosts

    def add(self, main: str) -> None:
        """Adds a main address. To look up the name of its host may take long: nobody waits."""
        place = address.Address(main).place
        if place.path:
            with self._lock:
                self._paths.setdefault(place.path, main)
                self._places.setdefault(place, main)
        elif place.host == "localhost":
            self._add_here(place, main)
        elif host := _packed(place.host):
            self._add_host(host, place, main)
        else:
            self._look_up(place, main)

    def of_connect(self, connect: Connect) -> str | None:
        """Returns the main address that a caller connects to, or None if it is none."""
        if connect.path:
            found = (main for path, main in [*self._paths.items()] if connect.leads_to_file(path))
            return next(found, None)
        if not connect.host or connect.port not in self._ports:
            return None
        main = self._hosts.get((connect.host, connect.port))
        if main is None and connect.port in self._here and _is_here(connect.host, connect.scope):
            main = self._here[connect.port]
        return main if main is not None and connect.is_in_own_network() else None

    def of_text(self, text: str) -> str | None:
        """Returns the main address that a program has named, or None if it is none."""
        named = address.Address(text)
        place = named.place
        if lookup := self._lookups.get(place):
            wait(lookup)
        with self._lock:
            exact = None if place.path else (_packed(named.host), int(place.port))
            return self._hosts.get(exact) if exact in self._hosts else self._places.get(place)

    def lookups_at(self, port: int) -> list[Lookup]:
        """Returns the lookups of hosts with a port that may still be waited for."""
        now = time.monotonic()
        return [
            (thread, deadline)
            for place, (thread, deadline) in [*self._lookups.items()]
            if now < deadline and int(place.port) == port and thread.is_alive()
        ]

    def _look_up(self, place: address.Address, main: str) -> None:
        def look_up() -> None:
            try:
                for *_, peer in _socket.getaddrinfo(place.host, None, 0, _socket.SOCK_STREAM):
                    self._add_host(_packed(str(peer[0])), place, main)
            except (OSError, ValueError):
                pass  # Only the guard in Python knows it.

        if place not in self._lookups:
            thread = threading.Thread(target=look_up, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # No thread can be started. It is left to the guard in Python.
            self._lookups[place] = thread, time.monotonic() + LOOKUP_TIME

    def _add_host(self, host: bytes, place: address.Address, main: str) -> None:
        if _is_here(host):
            self._add_here(place, main)
        with self._lock:  # An address of this machine may have a server of its own, too.
            self._hosts.setdefault((host, int(place.port)), main)
            self._places.setdefault(place, main)
            self._ports |= {int(place.port)}

    def _add_here(self, place: address.Address, main: str) -> None:
        with self._lock:
            self._here.setdefault(int(place.port), main)
            self._places.setdefault(place, main)
            self._ports |= {int(place.port)}


def wait(lookup: Lookup) -> None:
    """Waits until a host was looked up, or that has taken too long."""
    thread, deadline = lookup
    thread.join(max(0, deadline - time.monotonic()))


def _packed(host: str) -> bytes:
    """Returns an IP address in network byte order; b"" for the name of a host."""
    host = host.partition("%")[0]
    try:
        return _socket.inet_pton(_socket.AF_INET6 if ":" in host else _socket.AF_INET, host)
    except (OSError, ValueError):
        return b""


def _is_here(host: bytes, scope: int = 0) -> bool:
    """Returns whether an IP address is one of this machine.

    The kernel takes such an address as that of the sender, too: it is asked for its route.
    """
    is_ipv4 = len(host) == len(address.ALL_INTERFACES)
    if is_ipv4 and host[0] == address.LOOPBACK:
        return True
    if host in (address.ALL_INTERFACES, address.ALL_INTERFACES_6, address.LOOPBACK_6):
        return True
    family = _socket.AF_INET if is_ipv4 else _socket.AF_INET6
    text = _socket.inet_ntop(family, host)
    try:
        probe = _socket.socket(family, _socket.SOCK_DGRAM)
        try:
            probe.connect((text, ANY_PORT) if is_ipv4 else (text, ANY_PORT, 0, scope))
            sender: str = probe.getsockname()[0]
        finally:
            probe.close()
    except OSError as error:
        if error.errno in LIMITS:
            raise
        return False  # There is no way there, or no such family here.
    return sender.partition("%")[0] == text
