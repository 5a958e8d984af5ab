"""Reads operations from the log of memcached at verbosity 2.

There memcached writes each command and each answer to its output, at once: those of the text
protocol as they are, those of the binary protocol as hexadecimal headers with words beside them.
The texts are those of proto_text.c, proto_bin.c and memcached.c, from 1.5.22 to 1.6.45. Later
versions do not log all answers: 1.6.45 leaves out those of delete, touch, incr and decr.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple
from urllib.parse import unquote

from ..errors import printable
from ..inject import protocol
from ..registry.directories import RESTARTED, RESTARTED_FULL
from .commands import STORING_COMMANDS, Request, requests_of
from .operations import STORING

# Whether an answer of the text protocol tells that it is done. EXISTS refuses a "cas", but tells
# that the key is there.
ANSWERS = {
    b"STORED": True,
    b"EXISTS": True,
    b"DELETED": True,
    b"TOUCHED": True,
    b"NOT_STORED": False,
    b"NOT_FOUND": False,
}

# Begins the answer to a read, once for each key that is there.
SENDING = b"sending key "

# A line that names a connection.
OF_CONNECTION = re.compile(rb"([<>])(\d+) (.*)$", re.DOTALL)

# What other lines there are, beside the words of binary requests.
OF_NO_CONNECTION = re.compile(
    rb"CAS:  failure: |\d+: Client using the \w+ protocol$|slab class +\d+: "
)

# A line that was written for a trace, and not for a person.
TRACED = re.compile(
    rb"[<>]\d+ |\d+: Client using |CAS:  |Deleting |incr |Value len is |slab class +\d+: "
)

# What begins a binary request or response, and four bytes of its header.
BEGIN_BINARY = (b"Read binary protocol data:", b"Writing bin response:")
HEADER_PART = re.compile(rb" {1,3}0x(..) 0x(..) 0x(..) 0x(..)$")

# What explains a binary response that follows.
BINARY_ERROR = b"Writing an error: "

# What begins and ends connections.
NEW, CLOSED = re.compile(rb"new .* connection\.?$"), b"connection closed."

# Begins the words beside a binary request: those of some commands name no connection.
BINARY_WORDS = re.compile(rb"(?:<(\d+) )?[A-Za-z]+ ")

# How many operations wait for the answer to an earlier one, which later versions may not log.
MOST_WAITING = 20_000

# Bytes of a value that memcached has refused, and not waits for, where its log does not say so.
LARGE_VALUE = 512 * 1024

# Bytes of a header of the binary protocol, and the first one in that of a response.
HEADER = 24
RESPONSE = 0x81

# The opcodes of each verb in the binary protocol, and those of its quiet kind, which is not
# answered if it succeeds or, if it reads, if the key is not there.
VERBS = {
    "get": ((0x00, 0x0C), (0x09, 0x0D)),
    "gat": ((0x1D, 0x23), (0x1E, 0x24)),
    "set": ((0x01,), (0x11,)),
    "add": ((0x02,), (0x12,)),
    "replace": ((0x03,), (0x13,)),
    "append": ((0x0E,), (0x19,)),
    "prepend": ((0x0F,), (0x1A,)),
    "delete": ((0x04,), (0x14,)),
    "incr": ((0x05,), (0x15,)),
    "decr": ((0x06,), (0x16,)),
    "touch": ((0x1C,), ()),
    "flush": ((0x08,), (0x18,)),
}
OPCODES = {
    opcode: (verb, kind is quiet)
    for verb, (loud, quiet) in VERBS.items()
    for kind in (loud, quiet)
    for opcode in kind
}

# Whether a status of the binary protocol tells that it is done: success, not found, not stored.
# EXISTS refuses an "add" or a "cas".
STATUSES = {0: True, 1: False, 5: False}
EXISTS = 2

# Those that tell that a value is too large, or that there is no memory for it.
REFUSED = (0x03, 0x82)

# What this package marks: a test begins, or has ended; a user of this package empties the server.
BEGINS, ENDS, EMPTIED = "begins", "ends", "emptied"


class Mark(NamedTuple):
    """Is what this package has done between the operations of clients.

    what: BEGINS, ENDS or EMPTIED.
    test: the test that begins.
    """

    what: str
    test: str = ""

    @property
    def is_answered(self) -> bool:
        """Whether nothing more will be known of it."""
        return True


class _Client:
    """Knows what one connection has asked for and is not answered yet."""

    def __init__(self, descriptor: bytes) -> None:
        self.descriptor = descriptor
        self.number = 0  # of those that have sent an operation
        self.is_own = False  # of this package
        self.ends_tests = False
        self.requests: list[Request] = []
        self.storing: Request | None = None  # a value that memcached still receives
        self.header: list[int] | None = None  # bytes of the binary header that is being logged
        self.asked: tuple[str, bool] | None = None  # verb and silence of a request without words
        self.key_length = self.size = 0
        self.has_cas = False


class LogReader:
    """Reads operations from the log of one server, in the order in which it executed them."""

    def __init__(self) -> None:
        self.verbosities: list[str] = []  # what clients have set it to
        self.mixed_lines = 0  # of several threads: an operation is missing, or its answer
        self._clients: dict[bytes, _Client] = {}
        self._numbers = 0
        self._queue: deque[Request | Mark] = deque()
        self._awaited: _Client | None = None  # whose binary request has no words yet
        self._unread = b""
        self._is_full = False  # on purpose

    def feed(self, text: bytes, mark: bytes | None) -> bool:
        """Reads more of the log, but nothing beyond a mark.

        :param mark: what a connection of this package has sent; None to read all.
        :returns: whether the mark was there.
        """
        text = self._unread + text
        start = 0
        try:
            while (end := self._end_of_line(text, start)) >= 0:
                line, start = text[start:end], end + 1
                # The line before it may have no end.
                if line.endswith((RESTARTED, RESTARTED_FULL)):
                    self._read_restart(is_full=line.endswith(RESTARTED_FULL))
                else:
                    self._read(line)
                if mark is not None and line.endswith(mark):
                    return True
            return False
        finally:
            self._unread = text[start:]

    def take(self, all_answered: bool) -> list[Request | Mark]:
        """Returns operations and marks that were not returned yet.

        :param all_answered: the server is at rest: it has answered all that it will answer.
        """
        if all_answered:
            self._end_all_large_values()
        taken: list[Request | Mark] = []
        while self._queue and self._queue[0].is_answered:
            taken.append(self._queue.popleft())
        return taken

    def _end_of_line(self, text: bytes, start: int) -> int:
        """Returns where a line ends, or -1. A key of the binary protocol may have line ends."""
        client = self._awaited
        if client is not None and client.asked is not None:
            words = BINARY_WORDS.match(text, start)
            has_key = client.asked[0] not in ("append", "prepend")
            if words and has_key and words[1] in (None, client.descriptor):
                start = words.end() + client.key_length
        return text.find(b"\n", start)

    def _read(self, line: bytes) -> None:
        of_connection = OF_CONNECTION.match(line)
        if of_connection is None:
            self._read_words(line)
            return
        direction, descriptor, words = of_connection.groups()
        if words == CLOSED or NEW.match(words):
            if known := self._clients.pop(descriptor, None):
                self._end_large_value(known)
            return
        client = self._client(descriptor)
        if words in BEGIN_BINARY:
            client.header = []
        elif client.header is not None and (part := HEADER_PART.match(words)):
            client.header += (int(byte, 16) for byte in part.groups())
            if len(client.header) == HEADER:
                self._read_header(client, client.header)
                client.header = None
        elif client.asked is not None and direction == b">":
            client.asked = None  # memcached has refused the request.
        elif client.asked is not None:
            self._add_binary(client, words)
        elif direction == b"<":
            self._read_command(client, words)
        else:
            self._read_answer(client, words)

    def _read_restart(self, is_full: bool) -> None:
        """Reads that the server has lost its connections and its items."""
        self._is_full = is_full
        for client in self._clients.values():
            client.storing = None
            self._end_requests(client)
        self._clients.clear()
        self._awaited = None
        self._queue.append(Mark(EMPTIED))

    def _read_words(self, line: bytes) -> None:
        """Reads a line that names no connection."""
        if self._awaited is not None and self._awaited.asked is not None:
            self._add_binary(self._awaited, line)
        elif not OF_NO_CONNECTION.match(line):
            self.mixed_lines += 1

    def _client(self, descriptor: bytes) -> _Client:
        return self._clients.setdefault(descriptor, _Client(descriptor))

    def _add(self, client: _Client, request: Request) -> None:
        if not client.is_own:
            if not client.number:
                self._numbers += 1
                client.number = self._numbers
            request.client = client.number
            request.in_full = self._is_full
            self._queue.append(request)
            client.requests.append(request)
            if len(self._queue) > MOST_WAITING:  # behind one of a client that asks no more
                for each in self._clients.values():
                    self._end_requests(each)

    def _end_requests(self, client: _Client) -> None:
        """Expects no more answers to the requests of a client."""
        for request in client.requests:
            request.is_answered = True
        client.requests = []

    def _end_all_large_values(self) -> None:
        for client in [*self._clients.values()]:
            self._end_large_value(client)

    def _end_large_value(self, client: _Client) -> None:
        """Ends all requests of a client, but a value that may be incomplete."""
        if client.storing is not None and (client.storing.size or 0) < LARGE_VALUE:
            self._end_requests(client)
        else:
            self._end_values(client)

    def _end_values(self, client: _Client) -> None:
        """Ends all requests of a client: memcached is past them, also past a value it refused."""
        if client.storing is not None:  # Later versions do not log that they refuse a value.
            request, client.storing = client.storing, None
            request.was_refused = True
            self._add(client, request)
        self._end_requests(client)

    # The text protocol: doc/protocol.txt in memcached's source.

    def _read_command(self, client: _Client, line: bytes) -> None:
        # memcached takes nothing but spaces to separate words.
        verb, *arguments = filter(None, line.split(b" ")) if line.strip(b" ") else (b"",)
        if verb == protocol.MARK:
            self._read_mark(client, *arguments[:1])
            return
        if client.is_own:
            if verb == b"flush_all" and not client.ends_tests:
                self._queue.append(Mark(EMPTIED))
            return
        self._end_values(client)
        if verb == b"verbosity" and arguments[:1] in ([b"0"], [b"1"]):
            self.verbosities.append(printable(line.decode(errors="replace")))
        try:
            requests = requests_of(verb, arguments)
        except (ValueError, IndexError):
            return  # memcached refuses such a command, too.
        if verb in STORING_COMMANDS:
            (client.storing,) = requests
            return
        for request in requests:
            self._add(client, request)

    def _read_mark(self, client: _Client, word: bytes = b"") -> None:
        client.is_own = True
        if word == protocol.END:
            client.ends_tests = True
            self._end_all_large_values()  # The server was at rest.
            self._queue.append(Mark(ENDS))
        elif word and not word.startswith(b"#"):
            self._queue.append(Mark(BEGINS, unquote(word.decode(errors="replace"))))

    def _read_answer(self, client: _Client, line: bytes) -> None:
        if line.startswith(BINARY_ERROR):
            return  # A response follows.
        line = line.removeprefix(b"NOREPLY ")
        if client.storing is not None:
            # It is executed when its value is there.
            request, client.storing = client.storing, None
            request.is_conflict = line == b"EXISTS"
            request.was_refused = request.is_conflict or line.startswith(b"SERVER_ERROR")
            if not line.startswith(b"CLIENT_ERROR"):
                request.answer(ANSWERS.get(line))
                self._add(client, request)
                self._end_requests(client)
        elif line.startswith(SENDING):
            key = line[len(SENDING) :]
            for request in client.requests:
                if request.key == key and not request.found:
                    request.found = True
                    return
            self.mixed_lines += 1
        elif client.requests:
            is_number = line.isdigit() or line.startswith(b"CLIENT_ERROR cannot increment")
            client.requests[-1].answer(True if is_number else ANSWERS.get(line))
            self._end_requests(client)

    # The binary protocol.

    def _read_header(self, client: _Client, header: list[int]) -> None:
        if header[0] == RESPONSE:
            self._read_status(client, header[6] << 8 | header[7])
            return
        self._end_values(client)
        client.asked = OPCODES.get(header[1])
        self._awaited = client
        client.key_length = header[2] << 8 | header[3]
        body = int.from_bytes(bytes(header[8:12]), "big")
        client.size = body - client.key_length - header[4]
        client.has_cas = any(header[16:24])
        if client.asked is not None and client.asked[0] == "flush":
            self._add_binary(client, b"")

    def _read_status(self, client: _Client, status: int) -> None:
        request = client.storing or (client.requests[-1] if client.requests else None)
        if request is None:
            return
        request.is_conflict = status == EXISTS and request.verb != "add"
        request.was_refused = request.is_conflict or status in REFUSED
        if status == EXISTS:
            request.answer(request.is_conflict)
        elif not (request.may_create and status == 0):
            request.answer(STATUSES.get(status))
        if client.storing is not None:
            client.storing = None
            self._add(client, request)
        self._end_requests(client)

    def _add_binary(self, client: _Client, words: bytes) -> None:
        """Adds the request whose header was logged, with the words beside it."""
        assert client.asked is not None
        (verb, is_quiet), client.asked = client.asked, None
        request = Request(verb)
        request.hides_expiry = True
        if verb not in ("append", "prepend", "flush"):
            request.key = words.partition(b" ")[2][: client.key_length]
            self.mixed_lines += len(request.key) != client.key_length
        if verb in STORING:
            request.size = client.size
            if client.has_cas and verb in ("set", "add", "replace"):
                request.verb = "cas"
        # An expiry of -1 forbids to create the key.
        request.may_create = verb in ("incr", "decr") and not words.endswith(b", -1")
        if is_quiet:
            # No answer means success, and for a read that the key was not there.
            request.answer(verb not in ("get", "gat"))
        if verb in STORING and not is_quiet:
            client.storing = request
        else:
            self._add(client, request)
