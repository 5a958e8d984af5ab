"""The operations of a trace are those that clients have asked for, one by one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import Memcached
from sandbox.inject import protocol
from sandbox.server.commands import Request
from sandbox.server.log import LogReader
from sandbox.server.operations import Operation, operation_of

from ..helpers import clients
from ..helpers.clients import EXPIRY, Do

# The last version that is known to log all answers.
LOGS_ANSWERS = (1, 6, 38)

TEXT_KEYS = ["a", "price:7", "\N{EURO SIGN}:7", "k" * 250]
BINARY_KEYS = [*TEXT_KEYS, "with space", "two\nlines", "<13 get a", "\x1b[31mred"]

numbers = st.integers(0, 10_000)
values = st.one_of(
    st.integers(0, 999).map(lambda n: b"%d" % n), st.text("xyz", max_size=30).map(str.encode)
)


@pytest.fixture(scope="module")
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture(scope="module")
def all_clients(server: Memcached) -> Iterator[dict[str, dict[str, Do]]]:
    with ExitStack() as stack:
        yield clients.all_clients(server.address, stack)


class Model:
    """Knows what a server holds, and what a trace of its operations must have."""

    def __init__(self, logs_answers: bool) -> None:
        self._logs_answers = logs_answers
        self._items: dict[str, bytes] = {}

    def allows(self, verb: str, key: str) -> bool:
        # Clients raise errors of their own where memcached cannot count.
        return verb not in ("incr", "decr") or self._items.get(key, b"0").isdigit()

    def apply(
        self, verb: str, key: str, value: bytes, binary: bool, creates: bool
    ) -> tuple[str, str, bool | None, int | None, int | None]:
        """Returns verb, key, found, expires and size of the operation."""
        found: bool | None = key in self._items
        size = len(value) if verb in ("set", "add", "replace", "append", "prepend", "cas") else None
        if verb == "flush":
            self._items.clear()
            return "flush", "", None, None, None
        if verb == "set" or (verb == "add" and not found) or (verb == "replace" and found):
            self._items[key] = value
        elif verb in ("append", "prepend") and found:
            self._items[key] = b"no number, or one of too many digits"
        elif verb == "delete":
            self._items.pop(key, None)
        elif verb in ("incr", "decr") and (found or creates):
            self._items[key] = b"0"  # or another number
        untold = verb in ("delete", "touch", "incr", "decr") and not self._logs_answers
        if verb == "set" or (untold and not binary) or (creates and verb in ("incr", "decr")):
            found = None
        expires = None if binary or verb not in EXPIRING else EXPIRY
        sent = "" if binary and verb in ("append", "prepend") else key
        return verb, sent, found, expires, size


EXPIRING = ("set", "add", "replace", "cas", "touch", "gat")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(st.tuples(numbers, numbers, numbers, values), min_size=100, max_size=100))
def test_trace_has_each_operation_of_each_client(
    server: Memcached,
    all_clients: dict[str, dict[str, Do]],
    actions: list[tuple[int, int, int, bytes]],
) -> None:
    server.flush()
    model = Model(protocol.version_in(server.stats()["version"]) <= LOGS_ANSWERS)
    expected = []
    with server.trace() as operations:
        for which_client, which_verb, which_key, value in actions:
            client = chosen(sorted(all_clients), which_client)
            binary, creates = client.endswith("binary"), client.startswith("bmemcached")
            choice = chosen(sorted(all_clients[client]), which_verb)
            key = chosen(BINARY_KEYS if binary else TEXT_KEYS, which_key)
            verb = choice.partition(",")[0]
            if model.allows(verb, key):
                all_clients[client][choice](key, value)
                expected.append((client, *model.apply(verb, key, value, binary, creates)))
    numbers_: dict[int, str] = {}
    found = [
        (numbers_.setdefault(operation.client, client), *told(operation))
        for operation, (client, *_) in zip(operations, expected, strict=True)
    ]
    assert found == expected


def chosen(options: list[str], number: int) -> str:
    return options[number % len(options)]


def told(operation: Operation) -> tuple[str, str, bool | None, int | None, int | None]:
    return operation.verb, operation.key, operation.found, operation.expires, operation.size


def test_operations_of_the_meta_protocol_and_of_gat(server: Memcached) -> None:
    commands = (
        (b"gat 60 key other", 1),
        (b"ms key 2 T30\r\nab", 1),
        (b"ms key 1 ME\r\nx", 1),
        (b"ms key 1 MA\r\nx", 1),
        (b"mg key v", 2),
        (b"mg key t T90", 1),
        (b"ms n 1\r\n5", 1),
        (b"ma n", 1),
        (b"ma n MD", 1),
        (b"md n", 1),
        (b"mg c3BhY2UgaXQ= b", 1),
        (b"mn", 1),
    )
    server.flush()
    with socket.create_connection((server.host, server.port)) as connection:  # type: ignore[arg-type]
        answers = connection.makefile("rb")
        connection.sendall(b"mn\r\n")
        if answers.readline() != b"MN\r\n":
            pytest.skip("this memcached has no meta protocol, or an early one")
        with server.trace() as operations:
            for command, lines in commands:
                connection.sendall(command + b"\r\n")
                for _ in range(lines):
                    answers.readline()
        answers.close()
    assert [*map(str, operations)] == [
        *("gat key 60 s, miss", "gat other 60 s, miss", "set key 30 s, 2 bytes"),
        *("add key 1 byte", "append key 1 byte", "get key", "gat key 90 s", "set n 1 byte"),
        *("incr n", "decr n", "delete n", "get space it"),
    ]


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (("get", "shop:1:menu:7", False, None, None), "get shop:1:menu:7 miss"),
        (("set", "shop:1:menu:7", None, 60, 412), "set shop:1:menu:7 60 s, 412 bytes"),
        (("set", "k", None, 0, 1), "set k never expires, 1 byte"),
        (("set", "k", None, -1, 2_000), "set k expires at once, 2,000 bytes"),
        (("touch", "k", True, 2_000_000_000, None), "touch k until 2033-05-18 03:33:20 UTC, hit"),
        (("add", "\x1b[31m", True, None, 0), "add \\x1b[31m 0 bytes, hit"),
        (("set", "k", None, 10**14, 1), "set k until 100000000000000, 1 byte"),
        (("flush", "", None, None, None), "flush"),
    ],
)
def test_operation_is_printed_in_a_line(operation: Any, text: str) -> None:
    verb, key, found, expires, size = operation
    assert str(Operation(verb, key, key, found, expires, size, 1)) == text


def read(log: bytes, at_rest: bool = True) -> list[str]:
    reader = LogReader()
    reader.feed(log, None)
    return taken(reader, at_rest)


def taken(reader: LogReader, at_rest: bool) -> list[str]:
    events = reader.take(at_rest)
    return [str(operation_of(each, str)) for each in events if isinstance(each, Request)]


@pytest.mark.parametrize(
    ("log", "operations"),
    [
        # memcached separates words by spaces only.
        (b"<13 set a\tb 0 0 2\n>13 STORED\n<13 get  a\tb \n>13 sending key a\tb\n>13 END\n",
         [r"set a\tb never expires, 2 bytes", r"get a\tb hit"]),
        # A value is executed when it is there.
        (b"<13 add a 0 0 2\n<14 get a\n>14 END\n>13 STORED\n",
         ["get a miss", "add a never expires, 2 bytes, miss"]),
        (b"<13 add a 0 0 2\n<14 get a\n>14 END\n", ["get a miss"]),
        (b"<13 add a 0 0 2\n<13 connection closed.\n", []),
        # 1.6.45 does not log that it refuses a value that is too large.
        (b"<13 set a 0 0 2000000\n<13 get a\n>13 END\n",
         ["set a never expires, 2,000,000 bytes", "get a miss"]),
        (b"<13 set a 0 0 2\n>13 CLIENT_ERROR bad data chunk\n", []),
        # These are no commands.
        (b"<13 get " + b"k" * 251 + b"\n", []),
        (b"<13 set a 0 0 -1\n<13 set a 0 1_0 1\n<13 touch a soon\n<13 incr\n<13 \n<13\n", []),
        # What this package says is marked, and nothing else is.
        (b"<13 sandbox-test 5\n<13 get a\n>13 END\n", []),
        (b"<13 sandbox-testing\n>13 ERROR\n<13 get a\n>13 END\n", ["get a miss"]),
    ],
)  # fmt: skip
def test_log_is_read_as_memcached_executes_it(log: bytes, operations: list[str]) -> None:
    assert read(log) == operations


def test_operation_of_which_memcached_has_said_nothing_yet_waits() -> None:
    reader = LogReader()
    assert not reader.feed(b"<13 delete a\n<14 get", b"mark")
    assert taken(reader, at_rest=False) == []
    assert reader.feed(b" b\n>13 DELETED\n<15 sandbox-test mark\n<14 get c\n", b" mark")
    assert taken(reader, at_rest=True) == ["delete a hit", "get b miss"]
    assert not reader.feed(b"", None)
    assert taken(reader, at_rest=True) == ["get c miss"]
