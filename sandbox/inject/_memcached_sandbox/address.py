"""Parses and prints the addresses of memcacheds."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from typing import Union

    # What socket.connect() takes: the path of a Unix socket, or a host and a port.
    Peer = Union[str, "tuple[str, int]"]

# The port of an address without one: pymemcache, libmemcached and memcached itself agree on it.
DEFAULT_PORT = 11211

HIGHEST_PORT = 65535

# An address with its port, or a path. A number alone is no host, but a port without its host. A
# path has no NUL, and no surrogate but those that os.fsdecode() makes of undecodable bytes.
PATH = r"unix:[^\0\ud800-\udc7f\udd00-\udfff]+"
COMPLETE = rf"(?i){PATH}|(\[[0-9a-f:.]+(%[\w.-]+)?\]|(?!\d+:)[\w.-]+):(?P<port>\d{{1,5}})"

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

# An IPv6 address that stands for an IPv4 address: RFC 4291, section 2.5.5.2.
MAPPED = "::ffff:"


class Address(str):
    """Spells where a memcached listens in one way: ``host:port`` or ``unix:/path``.

    It is a string, so that the same place is the same key of a dictionary.

    :param text: as a LOCATION spells it. The default port is 11211, the default host is this
        machine, and a path may stand without its ``unix:``.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Address:
        text = text.strip()
        if text.startswith("/"):
            return cls.at_path(text)
        if text[:5].lower() == "unix:":
            return cls.at_path(text[5:])
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]") or _ipv6(text):
            host, port = text, str(DEFAULT_PORT)
        return cls.at(host, port)

    @classmethod
    def at(cls, host: str, port: object) -> Address:
        """Returns the address of a host, by name or by IP address, and a port."""
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        ip = _ipv6(bare)
        if ip.startswith(MAPPED) and "." in ip:
            spelled = ip[len(MAPPED) :]
        elif ip:
            spelled = f"[{ip}]"
        else:
            # Without a host, getaddrinfo() means this machine.
            spelled = host.lower() or "localhost"
        return super().__new__(cls, f"{spelled}:{port}")

    @classmethod
    def at_path(cls, path: str) -> Address:
        """Returns the address of a Unix socket."""
        return super().__new__(cls, f"unix:{path}")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Returns an address that a client can connect to.

        :raises ValueError: the text is no address.
        """
        address = cls(text) if isinstance(text, str) and text.strip() else None
        if address is None or not is_complete(address):
            raise ValueError(f"{text!r} is not HOST:PORT, [IPV6]:PORT or unix:/PATH")
        return address

    @property
    def path(self) -> str:
        """The path of a Unix socket; "" at a host."""
        return self[len("unix:") :] if self.startswith("unix:") else ""

    @property
    def host(self) -> str:
        """The host, an IPv6 address without its brackets; "" at a path."""
        return "" if self.path else self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> str:
        """The port as it is spelled; "" at a path."""
        return "" if self.path else self.rpartition(":")[2]

    @property
    def place(self) -> Address:
        """One address for all that lead to the same place, as far as their spelling tells."""
        if self.path:
            # The kernel reads it to its first NUL. One that begins with NUL is none of a file.
            path = self.path.partition("\0")[0]
            try:
                return Address.at_path(os.path.realpath(path)) if path else self
            except ValueError:
                return self  # It has surrogates, which no path of a file has.
        host = "localhost" if _is_this_machine(self.host) else self.host
        try:
            return Address.at(host, int(self.port))
        except ValueError:
            return Address.at(host, 0)  # No client can connect there.

    @property
    def peer(self) -> Peer:
        """The same for socket.connect().

        :raises ValueError: the port is no number.
        """
        return self.path or (self.host, int(self.port))


def is_complete(text: str) -> bool:
    """Returns whether a text is an address with its port, or a path with its ``unix:``."""
    import re  # The guard of a process that uses sockets does without.

    match = re.fullmatch(COMPLETE, text)
    return match is not None and 1 <= int(match["port"] or 1) <= HIGHEST_PORT


def _is_this_machine(host: str) -> bool:
    """Returns whether a host, by name or by any IP address that libc reads, is this machine."""
    import _socket  # Not before: its import loads the guard, which loads this module.

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


def _ipv6(host: str) -> str:
    """Returns the shortest spelling of an IPv6 address; "" if the host is none."""
    address, percent, zone = host.partition("%")
    if ":" not in address:
        return ""
    import _socket  # Not before: its import loads the guard, which loads this module.

    try:
        packed = _socket.inet_pton(_socket.AF_INET6, address)
    except (OSError, ValueError):
        return ""
    return f"{_socket.inet_ntop(_socket.AF_INET6, packed)}{percent}{zone}"
