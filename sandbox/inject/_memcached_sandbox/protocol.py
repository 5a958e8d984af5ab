"""Speaks the few commands of memcached's text protocol that running a server takes.

The import of pymemcache would take longer than a server's start. The protocol: doc/protocol.txt in
memcached's source.

All sockets of this package come from _socket. It is imported in a tenth of the time, and
socket.socket may be a project's own: gevent, eventlet and pytest-socket replace it.
"""

from __future__ import annotations

import _socket
import re
import time

from .address import Address
from .errors import ProtocolError

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from typing_extensions import Self

    from .address import Peer

# Bytes of the longest line to receive, about.
LONGEST_LINE = 1_000_000

# Seconds to wait for an answer. A busy machine may be starting many servers.
ANSWER_TIMEOUT = 60.0

# How often to ask again, a millisecond apart, while memcached's crawler is busy.
BUSY_LIMIT = 1000


class Connection:
    """Connects to a memcached. Use it as a context manager.

    All methods raise OSError and ProtocolError.

    :param peer: where the server listens: what socket.connect() takes.
    :param timeout: seconds, for connecting and for each answer.
    """

    def __init__(self, peer: Peer, timeout: float) -> None:
        self._received = b""
        # Not create_connection(): looking up a host imports codecs for 2 ms.
        if isinstance(peer, str):
            family = _socket.AF_UNIX
        else:
            family = _socket.AF_INET6 if ":" in peer[0] else _socket.AF_INET
        self._socket = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(peer)
        except BaseException:
            self._socket.close()
            raise

    @classmethod
    def to(cls, address: str, timeout: float) -> Self:
        """Connects to the server at an address."""
        return cls(Address(address).peer, timeout)

    def stats(self, group: str = "") -> dict[str, str]:
        """Returns the counters that ``stats`` lists, or those of ``stats GROUP``."""
        self._socket.sendall(f"stats {group}".rstrip().encode() + b"\r\n")
        counters = {}
        while (line := self._read_line()) != "END":
            kind, _, rest = line.partition(" ")
            if kind != "STAT":
                raise ProtocolError(f"answered {line!r} to 'stats'")
            name, _, value = rest.partition(" ")
            counters[name] = value
        return counters

    def metadump(self) -> list[dict[str, str]]:
        """Returns the fields of each item, by ``lru_crawler metadump``.

        memcached walks its lists, and moves items to other lists meanwhile: it may list an item
        twice, or miss it. Then its hash table is walked, where it can: since 1.6.9. That misses no
        item, but takes 10 ms with 1.6.18.
        """
        items = self._metadump("all")
        counters = self.stats()
        version = [int(number) for number in re.findall(r"\d+", counters["version"])[:3]]
        if len(items) < int(counters["curr_items"]) and version >= [1, 6, 9]:
            items = self._metadump("hash")
        return [*items.values()]

    def _metadump(self, walk: str) -> dict[str, dict[str, str]]:
        """Returns the items by their keys.

        memcached 1.6.43 and later answer OK before the first one. The answer is BUSY while
        memcached crawls by itself, which takes it microseconds.
        """
        request = f"lru_crawler metadump {walk}\r\n".encode()
        self._socket.sendall(request)
        items = {}
        refusals = 0
        while (line := self._read_line(b"\n").rstrip("\r")) != "END":
            if line.startswith("key="):
                fields = dict(field.split("=", 1) for field in line.split())
                items[fields["key"]] = fields
            elif line.startswith("BUSY") and refusals < BUSY_LIMIT:
                refusals += 1
                time.sleep(0.001)
                self._socket.sendall(request)
            elif line != "OK":
                raise ProtocolError(f"answered {line!r} to 'lru_crawler metadump {walk}'")
        return items

    def send_flush(self) -> None:
        """Tells the server to forget every item; `await_flush` must follow."""
        self._socket.sendall(b"flush_all\r\n")

    def await_flush(self) -> None:
        """Waits until every item is forgotten. Exact: what is set from now on stays."""
        if (line := self._read_line()) != "OK":
            raise ProtocolError(f"answered {line!r} to 'flush_all'")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_line(self, ending: bytes = b"\r\n") -> str:
        while ending not in self._received:
            more = self._socket.recv(65536)
            if not more:
                raise ProtocolError(f"closed the connection after {self._received!r}")
            self._received += more
            if len(self._received) > LONGEST_LINE:
                raise ProtocolError(f"sent no line but {self._received[:40]!r}...")
        line, _, self._received = self._received.partition(ending)
        return line.decode("latin-1")


def receive_line(connection: _socket.socket) -> bytes:
    """Receives a line. It is cut where the connection ends, and after LONGEST_LINE."""
    received = b""
    while b"\n" not in received and len(received) < LONGEST_LINE:
        more = connection.recv(65536)
        if not more:
            break
        received += more
    return received.partition(b"\n")[0]
