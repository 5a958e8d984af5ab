"""Server.items(): the items of a memcached, as each version of it lists them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain, repeat

import pytest

from sandbox import Memcached, Server, ServerError
from sandbox.inject import protocol


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """Give one client these answers to its requests, and the last one to all further ones."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for answer in chain(answers, repeat(answers[-1])):
                if not connection.recv(1000):
                    break
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        listener.settimeout(10)
        served = pool.submit(serve)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        served.result()


def counters(version: str, *, items: int) -> bytes:
    return f"STAT version {version}\r\nSTAT curr_items {items}\r\nEND\r\n".encode()


def test_items_have_key_size_and_expiry() -> None:
    with Memcached() as server, closing(server.client()) as client:
        assert server.items() == []
        before = time.time()
        client.set("forever", b"x" * 1000)
        client.set("per%cent", "", expire=100)
        client.set("gone", "", expire=-1, noreply=False)
        forever, passing = sorted(server.items())
        assert (forever.key, forever.expires) == ("forever", None)
        assert 1000 < forever.size < 1100
        assert passing.key == "per%cent"
        assert passing.expires is not None
        assert before + 98 < passing.expires < time.time() + 102
        server.flush()
        assert server.items() == []


def test_items_lists_thousands_of_items() -> None:
    with Memcached() as server, closing(server.client()) as client:
        client.set_many({f"key{number}": "value" for number in range(5000)}, noreply=False)
        assert len({item.key for item in server.items()}) == 5000


def test_items_lists_an_item_once_while_memcached_moves_it() -> None:
    with Memcached() as server, closing(server.client()) as client:
        for _ in range(3000):
            client.set("key", "value", noreply=False)
            assert [item.key for item in server.items()] == ["key"]


def test_items_waits_while_the_crawler_is_busy() -> None:
    """memcached makes one list at a time, and refuses to make another meanwhile."""
    with Memcached() as server, closing(server.client()) as client:
        client.set_many({f"key{number}": "" for number in range(5000)}, noreply=False)
        with ThreadPoolExecutor(2) as pool:
            lengths = list(pool.map(lambda _: len(server.items()), range(10)))
        assert lengths == [5000] * 10


@pytest.mark.parametrize(
    ("answer", "keys"),
    [
        (b"OK\r\nkey=one exp=-1 size=50\nEND\r\n", ["one"]),  # since 1.6.43
        (b"key=one exp=-1 size=50\nkey=two exp=-1 size=50\nEND\r\n", ["one", "two"]),
        (b"END\r\n", []),
        (b"OK\r\nEND\r\n", []),
        (b"VA 1\r\nkey=one exp=-1 size=50 new=field more\r\nDONE\r\nEND\r\n", ["one"]),  # some day
    ],
)
def test_items_reads_the_answers_of_other_versions(answer: bytes, keys: list[str]) -> None:
    stats = b"NEW line\r\n" + counters("1.5.22", items=9)
    with answering(stats, answer) as address:
        assert [item.key for item in Server(address).items()] == keys


@pytest.mark.parametrize(("version", "keys"), [("1.6.8", ["one"]), ("1.6.9", ["one", "two"])])
def test_items_that_memcached_has_moved_are_listed_where_it_can(
    version: str, keys: list[str]
) -> None:
    one, two = (f"key={key} exp=-1 size=50\n" for key in ("one", "two"))
    answers = (f"{one}END\r\n", f"{two}{one}END\r\n")
    first, second = (answer.encode() for answer in answers)
    stats = counters(version, items=2)
    with answering(stats, first, second) as address:
        assert sorted(item.key for item in Server(address).items()) == keys


@pytest.mark.parametrize(
    ("answer", "known"),
    [(b"BUSY currently processing", True), (b"ERROR", True), (b"item=one exp=-1 size=50", False)],
)
def test_items_that_memcached_does_not_list_are_an_error_with_its_version(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, known: bool
) -> None:
    monkeypatch.setattr("_memcached_sandbox.protocol.BUSY_LIMIT", 3)
    problem = f"answered '{answer.decode()}' to 'lru_crawler metadump all'"
    with answering(counters("1.7.1-rc1", items=1), answer + b"\r\n") as address:
        with pytest.raises(ServerError) as info:
            Server(address).items()
    unknown = "" if known else ", which memcached-sandbox does not know"
    assert str(info.value) == (f"memcached at {address} {problem}{unknown}; its version is 1.7.1")


def test_answers_of_a_busy_memcached_are_counted_as_memcached_counts_them() -> None:
    """Unlike those with items, which its crawler sends."""
    stats, busy = counters("1.6.18", items=1), b"BUSY currently processing crawler request\r\n"
    tally = protocol.Tally()
    with answering(stats, busy, busy, b"key=one exp=-1 size=50\nEND\r\n") as address:
        with protocol.Connection.to(address, 5.0, tally) as connection:
            assert [*connection.metadump()[0]] == ["one"]
    assert tally.bytes_received == len(stats) + 2 * len(busy)


@pytest.mark.parametrize("version", ["1.4.25 Ubuntu", "1.5.21"])
def test_items_of_a_memcached_that_is_too_old_are_an_error(version: str) -> None:
    with answering(counters(version, items=1), b"END\r\n") as address:
        with pytest.raises(ServerError) as info:
            Server(address).items()
    assert str(info.value) == (
        f"memcached at {address} cannot list its items: "
        f"its version is {version.split(maxsplit=1)[0]}, and that needs 1.5.22 or newer"
    )
