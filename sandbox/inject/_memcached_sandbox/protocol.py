"""Speaks the few commands of memcached's text protocol that running a server takes.

The import of pymemcache would take longer than a server's start. The protocol: doc/protocol.txt in
memcached's source.

All sockets of this package come from _socket. It is imported in a tenth of the time, and
socket.socket may be a project's own: gevent, eventlet and pytest-socket replace it.
"""

from __future__ import annotations

import _socket
import _thread
import re
import time

from .address import Address
from .errors import ProtocolError

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

    from .address import Peer

# Bytes of the longest line to receive from a process of the run, about.
LONGEST_LINE = 1_000_000

# Bytes of the longest line of memcached. A path in "stats settings" has up to 4096, and a key in a
# dump 750: 250 bytes, percent-encoded.
LONGEST_ANSWER_LINE = 20_000

# Bytes of an answer, but for dumps. "stats conns" is the longest: 200 for each connection.
LONGEST_ANSWER = 10_000_000

# Bytes of an item in a dump: its key and 200 more.
LONGEST_ITEM = 1_000

# Items that a server may list beyond two for each that it counts: they came meanwhile.
MORE_ITEMS = 1_000

# Bytes of a whole dump: 100 for each item. A server of 1 GB has at most 20 million items, as the
# smallest one takes 48 bytes there. For the 100 million of this limit Python would need 30 GB.
LONGEST_DUMP = 10_000_000_000

# Seconds to wait for all parts of a dump. memcached pauses for 0.1 ms after each 1000 items: for 10
# seconds in the longest dump, and for longer while this machine is busy.
DUMP_TIMEOUT = 300.0

# Digits of the largest number of memcached, which has 64 bits.
MOST_DIGITS = 20

# Characters of an answer to show in an error.
SHOWN = 80

# Seconds to wait for an answer. A busy machine may be starting many servers.
ANSWER_TIMEOUT = 60.0

# The counters of memcached that count operations on items, by whatever client.
OPERATIONS = (
    *("cmd_get", "cmd_set", "cmd_touch", "delete_hits", "delete_misses"),
    *("incr_hits", "incr_misses", "decr_hits", "decr_misses"),
)

# A command line that memcached does not know: it answers ERROR, and counts it in nothing but bytes.
# Where it logs its commands, this marks a connection as one of this package. A word may follow: the
# name of a test that begins, percent-encoded, or `END`.
MARK = b"sandbox-test"

# Tells that a test has ended, and that the server is being emptied for that.
END = b"#end"

# How often to ask again, a millisecond apart, while memcached's crawler is busy.
BUSY_LIMIT = 1000

# The first words of an answer that refuses a command.
REFUSALS = ("ERROR", "CLIENT_ERROR", "SERVER_ERROR", "BUSY")

# The oldest memcached that lists all its items: 1.5.6 leaves out new ones, 1.4.25 lists none.
OLDEST_THAT_LISTS = (1, 5, 22)

# The oldest memcached that can walk its hash table for a dump.
OLDEST_THAT_WALKS_ALL = (1, 6, 9)


class Tally:
    """Counts connections, and the bytes that were sent and received over them."""

    def __init__(self) -> None:
        self.connections = 0
        self.bytes_sent = 0
        self.bytes_received = 0


# What each thread of this process has exchanged with each server by connections of this module. No
# two threads count in the same place: they could interrupt each other.
_totals: dict[tuple[Peer, int], Tally] = {}


def exchanged(address: str) -> tuple[int, int]:
    """Returns how many bytes this process has sent to a server, and received from it."""
    peer = Address(address).peer
    tallies = [tally for (other, _), tally in [*_totals.items()] if other == peer]
    return (
        sum(tally.bytes_sent for tally in tallies),
        sum(tally.bytes_received for tally in tallies),
    )


class Connection:
    """Connects to a memcached. Use it as a context manager.

    All methods raise OSError and ProtocolError. A whole answer has limits of time and length: a
    server that sends without an end raises ProtocolError.

    A line that this package does not know may come from a later memcached. It is passed over where
    that is safe. An answer that lacks its end then raises ProtocolError with that line.

    :param peer: where the server listens: what socket.connect() takes.
    :param timeout: seconds, for connecting and for each answer but that of a whole dump.
    :param tally: where to count this connection.
    """

    def __init__(self, peer: Peer, timeout: float, tally: Tally | None = None) -> None:
        self.version: tuple[int, ...] = ()  # that of the server, such as (1, 6, 18), after `stats`
        self._timeout = timeout
        total = _totals.setdefault((peer, _thread.get_ident()), Tally())
        self._tallies = (tally or Tally(), total)
        self._is_dump = False  # which memcached does not count among the bytes that it has written
        self._unknown: ProtocolError | None = None  # due to what was passed over in this answer
        self._lines: Iterator[str] = iter(())  # received, but not read yet
        self._rest = ""  # the beginning of the line after these
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
        for each in self._tallies:
            each.connections += 1

    @classmethod
    def to(cls, address: str, timeout: float, tally: Tally | None = None) -> Self:
        """Connects to the server at an address."""
        return cls(Address(address).peer, timeout, tally)

    def stats(self, group: str = "") -> dict[str, str]:
        """Returns the counters that ``stats`` lists, or those of ``stats GROUP``."""
        command = f"stats {group}".rstrip()
        self.send(f"{command}\r\n".encode())
        counters = {}
        for line in self.await_stats(command):
            kind, _, rest = line.rstrip("\r").partition(" ")
            if kind == "STAT":
                name, _, value = rest.partition(" ")
                counters[name] = value
            else:
                self._pass_over(line, command)
        if "version" in counters:
            self.version = version_in(counters["version"])
        return counters

    def metadump(self, most: int | None = None) -> tuple[dict[str, tuple[int, float | None]], int]:
        """Returns the size and the expiry of each item, by its key, percent-encoded.

        Also returns how many items memcached counts. It walks its lists, and moves items to other
        lists meanwhile: it may list an item twice, or miss it. Then its hash table is walked, where
        it can: since 1.6.9. That misses no item, but takes 10 ms with 1.6.18.

        :param most: stop after that many. The connection is of no further use then.
        """
        count = number(self.stats(), "curr_items")
        if () < self.version < OLDEST_THAT_LISTS:
            found, oldest = dotted(self.version), dotted(OLDEST_THAT_LISTS)
            raise ProtocolError(
                f"cannot list its items: its version is {found}, and that needs {oldest} or newer"
            )
        self._is_dump = True
        items = self._metadump("all", most, count)
        if len(items) < count and len(items) != most and self.version >= OLDEST_THAT_WALKS_ALL:
            items = self._metadump("hash", most, count)
        self._is_dump = False
        return items, count

    def _metadump(
        self, walk: str, most: int | None, count: int
    ) -> dict[str, tuple[int, float | None]]:
        """Returns the items by ``lru_crawler metadump``.

        memcached 1.6.43 and later answer OK before the first one. The answer is BUSY while
        memcached crawls by itself, which takes it microseconds, or for a client that has just gone.
        """
        command = f"lru_crawler metadump {walk}"
        request = f"{command}\r\n".encode()
        if most is None:
            longest = min(LONGEST_DUMP, (2 * count + MORE_ITEMS) * LONGEST_ITEM)
            self._ask(request, longest, DUMP_TIMEOUT)
        else:
            self._ask(request, LONGEST_ANSWER, self._timeout)
        line = self._read_line()
        for _ in range(BUSY_LIMIT):
            if not line.startswith("BUSY"):
                break
            for each in self._tallies:  # memcached counts this answer, unlike a dump.
                each.bytes_received += len(f"{line}\r\n")
            time.sleep(0.001)
            self._send(request)
            line = self._read_line()
        if line == "OK":
            line = self._read_line()
        items: dict[str, tuple[int, float | None]] = {}
        while line != "END":
            if line.startswith("key="):
                fields = dict(field.partition("=")[::2] for field in line.split(" "))
                expires = None if fields.get("exp") == "-1" else float(number(fields, "exp"))
                items[fields["key"]] = number(fields, "size"), expires
                if len(items) == most:
                    break
            elif "=" in line:
                raise self._unexpected(line, command)  # It may be an item.
            else:
                self._pass_over(line, command)
            line = self._read_line()
        return items

    def send(self, commands: bytes) -> None:
        """Sends commands; `await_ok` and the like must follow for each."""
        self._ask(commands, LONGEST_ANSWER, self._timeout)

    def await_ok(self, command: str, other: str = "OK") -> bool:
        """Reads an answer that is OK, or begins with another word; returns whether it is OK."""
        line = self._read_line()
        if line != "OK" and not line.startswith(other):
            raise self._unexpected(line, command)
        return line == "OK"

    def set(self, key: str) -> bool:
        """Sets an item of one byte; returns whether there was memory for it."""
        self.send(f"set {key} 0 0 1\r\nx\r\n".encode())
        line = self._read_line()
        if line != "STORED" and not line.startswith("SERVER_ERROR out of memory"):
            raise self._unexpected(line, f"set {key}")
        return line == "STORED"

    def delete(self, key: str) -> None:
        """Deletes an item, if it is there."""
        self.send(f"delete {key}\r\n".encode())
        line = self._read_line()
        if line not in ("DELETED", "NOT_FOUND"):
            raise self._unexpected(line, f"delete {key}")

    def await_mark(self) -> None:
        """Reads the answer to `MARK`."""
        self.await_ok(MARK.decode(), "ERROR")

    def await_stats(self, command: str) -> list[str]:
        """Reads an answer with counters; returns its lines, each with its line end."""
        lines = [*self._lines]
        while not lines or lines[-1] != "END\r":
            if lines and not lines[-1].startswith("STAT "):
                self._pass_over(lines[-1], command)
            self._receive()
            lines += self._lines
        del lines[-1]
        return lines

    def fileno(self) -> int:
        """Returns the descriptor of its socket."""
        return self._socket.fileno()

    def close(self, is_own: bool = True) -> None:
        """Closes the connection.

        :param is_own: its descriptor is open, and has not become that of something else.
        """
        if is_own:
            self._socket.close()
        else:
            self._socket.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: bytes, most: int, seconds: float) -> None:
        """Sends a request.

        :param most: how many bytes its whole answer may have.
        :param seconds: how long to wait for its whole answer.
        """
        self._unknown = None
        self._bytes_left = most
        self._deadline = now() + seconds
        self._send(request)

    def _send(self, request: bytes) -> None:
        self._socket.sendall(request)
        for each in self._tallies:
            each.bytes_sent += len(request)

    def _read_line(self) -> str:
        while (line := next(self._lines, None)) is None:
            self._receive()
        return line.rstrip("\r")

    def _pass_over(self, line: str, command: str) -> None:
        """Takes a line that this package does not know for one that it does not need."""
        error = self._unexpected(line.rstrip("\r"), command)
        if _refuses(line):
            raise error
        self._unknown = self._unknown or error

    def _unexpected(self, line: str, command: str) -> ProtocolError:
        unknown = "" if _refuses(line) else ", which memcached-sandbox does not know"
        version = f"; its version is {dotted(self.version)}" if self.version else ""
        return ProtocolError(f"answered {_shortened(line)} to {command!r}{unknown}{version}")

    def _receive(self) -> None:
        try:
            self._receive_more()
        except (OSError, ProtocolError):
            if self._unknown is not None:
                raise self._unknown from None
            raise

    def _receive_more(self) -> None:
        """Receives more of an answer, within its limits."""
        if now() > self._deadline:
            raise ProtocolError("did not complete its answer in time")
        received = self._socket.recv(65536)
        for each in self._tallies:
            each.bytes_received += 0 if self._is_dump else len(received)
        self._bytes_left -= len(received)
        *lines, self._rest = (self._rest + received.decode("latin-1")).split("\n")
        self._lines = iter(lines)
        if not received:
            raise ProtocolError(f"closed the connection after {_shortened(self._rest)}")
        if len(self._rest) > LONGEST_ANSWER_LINE:
            raise ProtocolError(f"sent no line but {_shortened(self._rest)}")
        if self._bytes_left < 0:
            raise ProtocolError("sent more than any answer of memcached has")


def now() -> float:
    """Returns the seconds of a clock that tests cannot set or stop."""
    # Not time.monotonic(): freezegun stops that as well.
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def number(fields: Mapping[str, str], name: str) -> int:
    """Returns a number of an answer.

    :raises ProtocolError: the answer has no such number.
    """
    text = fields.get(name, "")
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise ProtocolError(f"answered {name}={_shortened(text)} in place of a number")
    return int(text)


def version_in(text: str) -> tuple[int, ...]:
    """Returns the numbers of a version, such as ``1.5.6 Ubuntu``; none if it begins with none."""
    match = re.match(r"\d{1,9}(\.\d{1,9}){0,2}", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def dotted(version: tuple[int, ...]) -> str:
    """Returns a version as memcached spells it."""
    return ".".join(map(str, version))


def _refuses(line: str) -> bool:
    return line.rstrip("\r").partition(" ")[0] in REFUSALS


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def receive_line(connection: _socket.socket, timeout: float) -> bytes:
    """Receives a line. It is cut where the connection ends, and after LONGEST_LINE.

    :param timeout: seconds for the whole line, however it comes.
    :raises OSError: it has not come by then.
    """
    received = b""
    deadline = now() + timeout
    while b"\n" not in received and len(received) < LONGEST_LINE:
        seconds = deadline - now()
        if seconds <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(seconds)
        more = connection.recv(65536)
        if not more:
            break
        received += more
    return received.partition(b"\n")[0]
