"""Leaks: what a test would have found of another, had nobody emptied the cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Server
from sandbox.inject import protocol
from sandbox.inspection import leaks
from sandbox.inspection.follower import UNKNOWN_EXPIRY
from sandbox.inspection.leaks import Leak, Replay
from sandbox.inspection.wanted import Wanted
from sandbox.server.trace import read_logs

from ..helpers import clients
from ..helpers.marked_tests import MarkedTests
from ..helpers.processes import eventually

if TYPE_CHECKING:
    import pymemcache


class Tests(MarkedTests):
    __test__ = False

    def __init__(self, **options: Any) -> None:
        super().__init__(Wanted(leaks=True), **options)

    def replay(self) -> Replay:
        (replay,) = self.inspector.finish()
        assert isinstance(replay, Replay)
        return replay

    def found(self) -> list[tuple[str, str, str]]:
        return [(leak.key, leak.left_by, leak.found_by) for leak in self.replay().leaks()]


@pytest.fixture
def tests() -> Iterator[Tests]:
    with Tests() as tests:
        yield tests


def test_conflict_of_a_cas_leaves_what_was_there(tests: Tests) -> None:
    tests.run("t.A.a", sets, lambda client: client.cas("k", "2", b"12345", expire=-1))
    tests.run("t.B.b", gets)
    assert tests.found() == [("k", "t.A.a", "t.B.b")]


@pytest.mark.parametrize("kind", ["down", "hung", "full"])
def test_outage_takes_along_what_it_loses(tests: Tests, kind: str) -> None:
    tests.run("t.A.a", sets)
    with getattr(tests.server, kind)():
        pass
    tests.run("t.B.b", gets, sets)
    tests.run("t.C.c", gets)
    by_b = ("k", "t.B.b", "t.C.c")
    assert tests.found() == ([("k", "t.A.a", "t.B.b"), by_b] if kind == "hung" else [by_b])


def sets(client: pymemcache.Client) -> None:
    client.set("k", "1")


def gets(client: pymemcache.Client) -> None:
    client.get("k")


def deletes(client: pymemcache.Client) -> None:
    client.delete("k")


@pytest.mark.parametrize(
    "reads",
    [
        gets,
        lambda client: client.gets("k"),
        lambda client: client.raw_command("gat 60 k", b"END\r\n"),
        lambda client: client.get_many(["other", "k"]),
        lambda client: client.add("k", "2"),
        lambda client: client.replace("k", "2"),
        lambda client: client.append("k", "2"),
        lambda client: client.prepend("k", "2"),
        lambda client: client.cas("k", "2", b"1"),
        lambda client: client.incr("k", 1),
        lambda client: client.decr("k", 1),
        lambda client: client.touch("k", 60),
        lambda client: client.raw_command("mg k v", b"\r\n"),
    ],
)
@pytest.mark.parametrize("leaves", [sets, lambda client: client.add("k", "1", expire=60)])
def test_what_depends_on_a_key_that_was_left_is_a_leak(
    tests: Tests, leaves: Callable[..., None], reads: Callable[..., None]
) -> None:
    tests.run("a", leaves)
    tests.run("b", reads)
    assert tests.found() == [("k", "a", "b")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([sets, deletes], [gets]),
        ([lambda client: client.set("k", "1", expire=-1)], [gets]),
        ([sets, lambda client: client.touch("k", -1)], [gets]),
        ([sets, lambda client: client.flush_all()], [gets]),
        ([lambda client: client.incr("k", 1)], [gets]),
        ([lambda client: client.append("k", "1")], [gets]),
        ([sets, lambda client: client.set("k", b"x" * 2_000_000)], [gets]),
        ([lambda client: client.set("k", b"x" * 2_000_000)], [gets]),
        ([gets], [gets]),
        ([sets], [lambda client: client.get("other")]),
        ([sets], [deletes, gets]),
        ([sets], [deletes]),
        ([sets], [lambda client: client.flush_all(), gets]),
        ([sets], [lambda client: client.set("k", "2"), gets]),
    ],
)
def test_no_leak(
    tests: Tests, first: list[Callable[..., None]], second: list[Callable[..., None]]
) -> None:
    tests.run("a", *first)
    tests.run("b", *second)
    assert tests.found() == []


def test_key_that_has_expired_is_no_leak(tests: Tests, monkeypatch: pytest.MonkeyPatch) -> None:
    tests.run("a", lambda client: client.set("k", "1", expire=60))
    tests.run("b", lambda client: client.set("l", "1", expire=4_000_000_000))  # a Unix time
    read_logs()
    later = protocol.now() + 61
    monkeypatch.setattr(protocol, "now", lambda: later)
    tests.run("c", lambda client: client.get_many(["k", "l"]))
    assert tests.found() == [("l", "b", "c")]


def test_flush_with_a_delay_leaves_what_is_there(tests: Tests) -> None:
    tests.run("a", sets, lambda client: client.raw_command("flush_all 100"))
    tests.run("b", gets)
    assert tests.found() == [("k", "a", "b")]


def test_expiry_of_the_binary_protocol_is_said_to_be_unknown(tests: Tests) -> None:
    with ExitStack() as stack:
        do = clients.bmemcached_client(tests.server.address, stack)
        tests.begin("a")
        do["set"]("k", b"1")
        do["set"]("l", b"1")
        tests.end()
    assert tests.replay().flaws == [UNKNOWN_EXPIRY]


def test_last_one_that_sets_a_key_has_left_it(tests: Tests) -> None:
    tests.run("a", sets)
    tests.run("b", gets, sets)
    tests.run("c", gets)
    assert tests.found() == [("k", "a", "b"), ("k", "b", "c")]


def test_what_only_changes_a_key_leaves_it_to_the_first_one(tests: Tests) -> None:
    tests.run("a", sets)
    tests.run("b", lambda client: client.incr("k", 1))
    tests.run("c", lambda client: client.add("k", "1"))
    tests.run("d", gets, gets)
    assert tests.found() == [("k", "a", "b"), ("k", "a", "c"), ("k", "a", "d")]


def test_kept_cache_is_no_leak_until_it_is_emptied(tests: Tests) -> None:
    tests.begin("a")
    sets(tests.client)
    tests.begin("b")
    gets(tests.client)
    deletes(tests.client)
    gets(tests.client)
    sets(tests.client)
    tests.end()
    tests.run("c", gets)
    assert tests.found() == [("k", "b", "c")]


def test_attempts_at_a_test_are_the_same_test(tests: Tests) -> None:
    tests.run("a", gets, sets)
    tests.run("a", gets, sets)
    assert tests.found() == []


def test_what_is_done_before_a_test_is_its_own(tests: Tests) -> None:
    sets(tests.client)  # in a setUpClass, for instance
    tests.run("a")
    gets(tests.client)
    tests.run("b")
    gets(tests.client)  # after the last test
    assert tests.found() == [("k", "a", "b")]


def test_user_who_empties_the_server_leaves_nothing(tests: Tests) -> None:
    tests.begin("a")
    sets(tests.client)
    Server(tests.server.address).flush()
    tests.client.set("other", "1")
    tests.end()
    tests.run("b", gets, lambda client: client.get("other"))
    assert tests.found() == [("other", "a", "b")]


def test_leaks_of_each_client(tests: Tests) -> None:
    keys: dict[str, str] = {}
    with ExitStack() as stack:
        made = clients.all_clients(tests.server.address, stack)
        for name, do in made.items():
            key = keys[name] = f"\N{EURO SIGN}-{len(keys)}"
            for verb, used in (("set", key), ("get", key), ("get", "other")):
                tests.begin(f"{name} {verb} {used}")
                do[verb](used, b"1")
                tests.end()
    assert tests.found() == [
        (key, f"{name} set {key}", f"{name} get {key}") for name, key in keys.items()
    ]


def test_leaks_of_several_threads_and_without_reply() -> None:
    with Tests(threads=4) as tests:
        for number in range(50):
            with closing(tests.server.client()) as other:
                tests.begin(f"a{number}")
                other.set(f"k{number}", "1", noreply=True)
                tests.end()
                tests.begin(f"b{number}")
                other.get(f"k{number}")
                tests.end()
        assert tests.found() == [(f"k{n}", f"a{n}", f"b{n}") for n in range(50)]


def test_replay_forgets_what_was_set_first_when_it_is_full(
    tests: Tests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "MOST_BYTES", 100 * leaks.BYTES_OF_AN_ITEM)
    keys = [f"key{number:04}" for number in range(500)]
    tests.run("a", lambda client: client.set_many(dict.fromkeys(keys, "1")))
    tests.run("b", lambda client: client.get_many(keys))
    replay = tests.replay()
    assert replay.leaks()[-1] == ("key0499", "a", "b")
    assert 90 < len(replay.leaks()) < 100
    assert replay.flaws == [leaks.FORGOTTEN]


def test_leaks_beyond_a_limit_are_counted(tests: Tests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "MOST_LEAKS", 10)
    keys = [f"key{number:04}" for number in range(25)]
    tests.run("a", lambda client: client.set_many(dict.fromkeys(keys, "1")))
    tests.run("b", lambda client: client.get_many(keys))
    replay = tests.replay()
    assert replay.leaks() == [Leak(key, "a", "b") for key in keys[:10]]
    assert replay.dropped == 15


def test_client_that_switches_the_log_off_is_told(tests: Tests) -> None:
    tests.run("a", sets, lambda client: client.raw_command("verbosity 0"))
    tests.run("b", gets)
    (flaw,) = tests.replay().flaws
    assert flaw.startswith("a client has sent 'verbosity 0' to memcached at ")


def test_log_takes_little_room_while_it_is_read(tests: Tests) -> None:
    """Also within a test that does a lot."""
    if sys.platform != "linux":
        pytest.skip("only Linux gives back what was read")
    with tests.inspector.reading():
        tests.begin("a")
        for _ in range(80):
            tests.client.get_many([f"key{number}" for number in range(1000)])
        log = os.stat(tests.server._log_path())
        assert log.st_size > 500_000
        eventually(lambda: os.stat(tests.server._log_path()).st_blocks * 512 < 100_000)
