"""Reads the commands of memcached's text protocol: doc/protocol.txt in memcached's source."""

from __future__ import annotations

from base64 import b64decode

from .operations import STORING

# Bytes of the longest key: KEY_MAX_LENGTH in memcached.h.
LONGEST_KEY = 250

# The commands that a value follows, and those that fetch some.
STORING_COMMANDS = frozenset(map(str.encode, STORING))
READING_COMMANDS = frozenset((b"get", b"gets", b"gat", b"gats"))

# The meta commands, and the modes of "ms" and "ma" that do something else.
META = {b"mg": "get", b"ms": "set", b"md": "delete", b"ma": "incr"}
STORING_MODES = {b"E": "add", b"A": "append", b"P": "prepend", b"R": "replace"}
DECREASING_MODES = (b"D", b"-")


class Request:
    """Holds an operation, and what memcached has answered as far as that is known.

    Its attributes are those of `sandbox.Operation`, but for ``key``, which is as it was sent.

    hides_expiry: an expiry may have been sent, but is not logged: in the binary protocol.
    was_refused: memcached has not taken the value: it is too large, there is no memory left, or
        ``is_conflict``.
    in_full: the server is full on purpose.
    is_conflict: another client has changed the value that a cas was to replace.
    may_create: it creates a counter that is not there.
    is_answered: memcached will not answer any more.
    """

    __slots__ = (
        *("verb", "key", "expires", "size", "found", "client"),
        *("hides_expiry", "was_refused", "is_conflict", "may_create", "is_answered"),
        "in_full",
    )

    def __init__(
        self,
        verb: str,
        key: bytes = b"",
        expires: int | None = None,
        size: int | None = None,
        found: bool | None = None,
    ) -> None:
        self.verb = verb
        self.key = key
        self.expires = expires
        self.size = size
        self.found = found
        self.hides_expiry = False
        self.was_refused = False
        self.in_full = False
        self.is_conflict = False
        self.may_create = False
        self.is_answered = False
        self.client = 0

    def answer(self, was_done: bool | None) -> None:
        """Takes an answer by which memcached tells that it has done it, or that it has not."""
        if was_done is not None and self.verb not in ("set", "flush"):
            # What "add" does not find it stores.
            self.found = was_done != (self.verb == "add")

    def has_stored(self) -> bool:
        """Returns whether it has stored a value, as far as memcached tells."""
        return (
            self.verb in STORING and not self.was_refused and self.found is not (self.verb == "add")
        )


def requests_of(command: bytes, arguments: list[bytes]) -> list[Request]:
    """Returns the requests of a command line; none if it asks for no operation.

    :raises ValueError: an argument is wrong.
    :raises IndexError: one is missing.
    """
    if command in STORING_COMMANDS:
        key, _, expires, size = arguments[:4]
        # append and prepend leave the expiry as it is, whatever a client sends.
        expiry = None if command.endswith(b"pend") else _number(expires)
        if size.startswith(b"-"):
            raise ValueError("no size is negative")
        return [Request(command.decode(), _key(key), expiry, _number(size))]
    if command in READING_COMMANDS:
        expiry = _number(arguments.pop(0)) if command.startswith(b"gat") else None
        return [Request(command[:3].decode(), _key(key), expiry, found=False) for key in arguments]
    if command in META:
        return [_meta_request(command, *arguments)]
    if command == b"touch":
        return [Request("touch", _key(arguments[0]), _number(arguments[1]))]
    if command in (b"delete", b"incr", b"decr"):
        return [Request(command.decode(), _key(arguments[0]))]
    if command == b"flush_all":
        delay = _number(arguments[0]) if arguments and arguments[0] != b"noreply" else 0
        return [Request("flush", expires=delay or None)]
    return []


def _meta_request(command: bytes, key: bytes = b"", *flags: bytes) -> Request:
    """Returns the request of a meta command, whose answers are not logged."""
    size = _number(flags[0]) if command == b"ms" else None
    values = {flag[:1]: flag[1:] for flag in flags[command == b"ms" :]}
    mode = values.get(b"M", b"")[:1].upper()
    verb = META[command]
    if command == b"ms":
        verb = STORING_MODES.get(mode, verb)
    elif command == b"ma" and mode in DECREASING_MODES:
        verb = "decr"
    elif command == b"mg" and b"T" in values:
        verb = "gat"
    if b"b" in values:
        key = b64decode(key)
    return Request(verb, key, _number(values[b"T"]) if b"T" in values else None, size)


def _key(text: bytes) -> bytes:
    """Returns a key that memcached takes.

    :raises ValueError: it is too long.
    """
    if len(text) > LONGEST_KEY:
        raise ValueError("no key is that long")
    return text


def _number(text: bytes) -> int:
    """Returns a number as memcached reads it.

    :raises ValueError: it is none.
    """
    if not text.removeprefix(b"-").isdigit():
        raise ValueError("no number")
    return int(text)
