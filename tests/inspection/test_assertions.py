"""Assertions about the operations on servers: what fails, and what the failure tells."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Memcached, OptionError, ServerError
from sandbox.inspection.assertions import ExpectedCounts, ExpectedOperations
from sandbox.server.counts import COUNTERS

if TYPE_CHECKING:
    import pymemcache


@pytest.fixture(scope="module")
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture
def client(server: Memcached) -> Iterator[pymemcache.Client]:
    with closing(server.client()) as client:
        client.flush_all(noreply=False)
        yield client


def read_repeatedly(client: pymemcache.Client) -> None:
    client.get("a1")
    client.set("a1", b"xyz", expire=60, noreply=False)
    client.get_many(["a1", "a1"])
    client.get("b")


def test_failure_names_counts_and_lists_operations(
    server: Memcached, client: pymemcache.Client
) -> None:
    with (
        pytest.raises(AssertionError) as failure,
        ExpectedOperations([server], "it", {"gets": 2, "sets": 1, "misses": 1}),
    ):
        read_repeatedly(client)
    assert str(failure.value).splitlines() == [
        "it: gets: expected 2, found 4; misses: expected 1, found 2",
        "  get a1 miss",
        "  set a1 60 s, 3 bytes",
        "  get a1 hit (again)",
        "  get a1 hit (again)",
        "  get b miss",
    ]


def test_limit_is_exceeded_by_more_only(server: Memcached, client: pymemcache.Client) -> None:
    with ExpectedOperations([server], "it", {"gets": 2, "sets": 0}, is_limit=True):
        client.get("a")
    with (
        pytest.raises(AssertionError, match=r"^it: gets: expected at most 1, found 2\n"),
        ExpectedOperations([server], "it", {"gets": 1, "sets": 0}, is_limit=True),
    ):
        client.get_many(["a", "b"])


def test_too_few_operations_fail(server: Memcached) -> None:
    with (
        pytest.raises(AssertionError, match=r"^it: sets: expected 1, found 0\n  no operation$"),
        ExpectedOperations([server], "it", {"sets": 1}),
    ):
        pass


def test_counts_of_several_servers_are_summed(server: Memcached, client: pymemcache.Client) -> None:
    with Memcached() as other, closing(other.client()) as second:
        address = other.address
        with ExpectedOperations([server, other], "both", {"gets": 2}):
            [each.get("a") for each in (client, second)]
        with (
            pytest.raises(AssertionError) as failure,
            ExpectedOperations([server, other], "both", {"gets": 1}),
        ):
            [each.get("a") for each in (client, second)]
    assert str(failure.value).splitlines() == [
        "both: gets: expected 1, found 2",
        f"memcached at {server.address}:",
        "  get a miss",
        f"memcached at {address}:",
        "  get a miss",
    ]


def test_long_list_is_cut(server: Memcached, client: pymemcache.Client) -> None:
    with (
        pytest.raises(AssertionError) as failure,
        ExpectedOperations([server], "it", {"gets": 1}),
    ):
        client.get_many([f"key{number}" for number in range(2000)])
    lines = str(failure.value).splitlines()
    assert lines[0] == "it: gets: expected 1, found 2,000"
    assert lines[50:] == ["  get key49 miss", "  ... and 1,950 more"]


def test_error_of_the_body_comes_first(server: Memcached, client: pymemcache.Client) -> None:
    with pytest.raises(KeyError), ExpectedOperations([server], "it", {"gets": 1}):
        raise KeyError
    with server.trace() as operations:  # It has ended its own trace.
        client.get("a")
    assert len(operations) == 1


def test_server_that_ends_meanwhile_is_an_error() -> None:
    with (
        Memcached() as server,
        pytest.raises(ServerError, match="was killed"),
        ExpectedOperations([server], "it", {"gets": 0}),
    ):
        os.kill(server.pid, signal.SIGKILL)


def test_expected_counts_are_those_that_there_are() -> None:
    assert [*ExpectedCounts.__annotations__] == [*COUNTERS]


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({}, r"^no count is given, so that nothing would be checked: give gets, hits, misses, "),
        ({"reads": 1}, r"^reads=1: there is no such count; there are gets, hits, misses, "),
        ({"gets": -1}, r"^gets=-1: must be a whole number, 0 or more$"),
        ({"gets": "1"}, r"^gets='1': must be a whole number, 0 or more$"),
        ({"gets": True}, r"^gets=True: must be a whole number, 0 or more$"),
        ({"gets": None}, r"^gets=None: must be a whole number, 0 or more$"),
    ],
)
def test_wrong_count(server: Memcached, counts: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        ExpectedOperations([server], "it", counts)
