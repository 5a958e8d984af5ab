"""Counting: what memcached's own counters tell of what clients did."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandbox import Memcached, Server, ServerError
from sandbox.server.counts import COUNTERS, Counts

if TYPE_CHECKING:
    import pymemcache

NOTHING = dict.fromkeys(COUNTERS, 0)


@pytest.fixture(params=["own", "at an address"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose threads are seen, and one that is asked whether it is at rest."""
    with Memcached() as server:
        yield server if request.param == "own" else Server(server.address)


@pytest.fixture
def client(server: Server) -> Iterator[pymemcache.Client]:
    with closing(server.client()) as client:
        yield client


def fail_after_get(client: pymemcache.Client) -> None:
    client.get("a")
    raise KeyError


def fail_after_kill(server: Memcached) -> None:
    os.kill(server.pid, signal.SIGKILL)
    raise KeyError


def test_counts_are_those_of_clients(server: Server, client: pymemcache.Client) -> None:
    with server.counting() as nothing:
        pass
    assert vars(nothing) == NOTHING
    with server.counting() as counts:
        client.get("a")  # get a\r\n, END\r\n
        client.set("a", "1", noreply=False)  # set a 0 0 1\r\n1\r\n, STORED\r\n
        client.get("a")  # get a\r\n, VALUE a 0 1\r\n1\r\nEND\r\n
        client.incr("a", 1)  # incr a 1\r\n, 2\r\n
        client.touch("a", 60, noreply=False)  # touch a 60\r\n, TOUCHED\r\n
        client.delete("a", noreply=False)  # delete a\r\n, DELETED\r\n
    sent, answered = 7 + 16 + 7 + 10 + 12 + 10, 5 + 8 + 21 + 3 + 9 + 9
    assert vars(counts) == NOTHING | {
        "gets": 2,
        "hits": 1,
        "misses": 1,
        "sets": 1,
        "increments": 1,
        "touches": 1,
        "deletes": 1,
        "bytes_read": sent,
        "bytes_written": answered,
    }
    assert repr(counts).startswith("Counts(gets=2, hits=1, misses=1, ")


def test_counts_have_what_was_sent_without_reply_and_nothing_from_before(
    server: Server, client: pymemcache.Client
) -> None:
    values = {f"key{number}": b"x" * 1000 for number in range(500)}
    for _ in range(5):
        client.set_many(values, noreply=True)
        with server.counting() as none:
            pass
        with server.counting() as counts:
            client.set_many(values, noreply=True)
        assert (none.sets, counts.sets) == (0, 500)


def test_counts_of_several_threads_are_exact() -> None:
    with Memcached(threads=4) as server, ThreadPoolExecutor(4) as pool:

        def use(_: int) -> None:
            with closing(server.client()) as client:
                for number in range(100):
                    client.set(f"key{number}", "value", noreply=number % 2 == 0)

        with server.counting() as counts:
            [*pool.map(use, range(4))]
    assert counts.sets == 400


def test_counts_of_evictions() -> None:
    with Memcached(memory_mb=2) as server, closing(server.client()) as client:
        with server.counting() as counts:
            client.set_many({f"key{number}": b"x" * 10_000 for number in range(1000)})
        assert counts.sets == 1000
        assert counts.evictions == 1000 - len(server.items()) > 0


def test_counts_have_nothing_that_this_package_asks(server: Server) -> None:
    with server.counting() as counts:
        server.stats()
        server.items()
        server.flush()
        with server.counting():
            pass
        if isinstance(server, Memcached):
            with server.trace():
                pass
    assert vars(counts) == NOTHING


def test_counts_of_a_server_that_is_started_anew() -> None:
    with Memcached() as server:
        with pytest.raises(ServerError, match="^memcached was started anew"), server.counting():
            restart(server)


def restart(server: Memcached) -> None:
    server.stop()
    server.start()


def test_counts_are_not_known_before_the_end(server: Server) -> None:
    with server.counting() as counts:
        with pytest.raises(ServerError, match=r"^gets is not known before the 'with' of counting"):
            counts.gets  # noqa: B018
        assert repr(counts) == "Counts(not known yet)"
    assert counts.gets == 0
    with pytest.raises(AttributeError, match="'Counts' object has no attribute 'reads'"):
        counts.reads  # noqa: B018


def test_counts_after_an_exception(server: Server, client: pymemcache.Client) -> None:
    with pytest.raises(KeyError), server.counting() as counts:
        fail_after_get(client)
    assert counts.misses == 1


def test_counters_that_a_client_has_reset_cannot_be_compared(
    server: Server, client: pymemcache.Client
) -> None:
    client.get("a")
    with (
        pytest.raises(ServerError, match="a client has reset the counters"),
        server.counting(),
    ):
        client.raw_command("stats reset")


def test_counts_of_a_server_that_dies() -> None:
    with Memcached() as server:
        with pytest.raises(KeyError), server.counting():
            fail_after_kill(server)
        server.stop()
        server.start()
        with pytest.raises(ServerError, match="was killed by signal 9"), server.counting():
            os.kill(server.pid, signal.SIGKILL)


def test_each_count_is_in_the_table() -> None:
    for count, counters in COUNTERS.items():
        assert f"{count:13} {counters[0]}" in (Counts.__doc__ or "")
    assert Counts.__annotations__.keys() == COUNTERS.keys()
