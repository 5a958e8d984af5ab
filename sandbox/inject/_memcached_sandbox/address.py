"""Parses and prints the addresses of memcacheds."""

from __future__ import annotations

import re

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from typing import Union

    # What socket.connect() takes: the path of a Unix socket, or a host and a port.
    Peer = Union[str, "tuple[str, int]"]

# pymemcache, libmemcached and memcached itself agree on it.
DEFAULT_PORT = 11211

USUAL = re.compile(r"unix:/.+|(\[[0-9a-f:.]+(%[\w.-]+)?\]|[\w.-]+):\d{1,5}", re.IGNORECASE)


class Address(str):
    """Spells where a memcached listens in one way: ``host:port`` or ``unix:/path``.

    It is a string: the same place is the same key, in JSON and in an environment variable, too.
    What leaves this package is made a plain one by str(), since execnet takes no other.

    :param text: as a LOCATION spells it. The port is 11211 and the host is this machine where it
        names none. A path may stand without its ``unix:``.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Address:
        text = text.strip()
        if text.startswith("/"):
            text = f"unix:{text}"
        elif not text.startswith("unix:"):
            host, colon, port = text.rpartition(":")
            if not colon or text.endswith("]"):
                host, port = text, str(DEFAULT_PORT)
            # Without a host, getaddrinfo() means this machine.
            text = f"{host.lower() or 'localhost'}:{port}"
        return super().__new__(cls, text)

    @classmethod
    def of(cls, host: str, port: object) -> Address:
        """Returns the address of a host, whose IPv6 address has no brackets, and a port."""
        bare = ":" in host and not host.startswith("[")
        return cls(f"[{host}]:{port}" if bare else f"{host}:{port}")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Returns an address that a client can connect to.

        :raises ValueError: the text is none.
        """
        address = cls(text)
        if not is_usual(address):
            raise ValueError(f"{text!r} is not HOST:PORT or unix:/PATH")
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
    def peer(self) -> Peer:
        """What socket.connect() takes.

        :raises ValueError: the port is no number.
        """
        return self.path or (self.host, int(self.port))


def is_usual(text: str) -> bool:
    """Returns whether a text has the usual spelling of an address."""
    return USUAL.fullmatch(text) is not None
