"""Findings: what tests do to their caches that is seldom meant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack

import bmemcached
import pytest

from sandbox.inspection import findings
from sandbox.inspection.report import Report
from sandbox.inspection.wanted import Wanted

from ..helpers import clients
from ..helpers.marked_tests import MarkedTests

WANTED = Wanted(findings=True)


@pytest.fixture
def tests() -> Iterator[MarkedTests]:
    with MarkedTests(WANTED) as tests:
        yield tests


def found(*all_tests: MarkedTests, evictions: int = 0, quiet: bool = False) -> list[str]:
    report = Report(WANTED)
    first, *others = all_tests
    report.add(first.inspector.finish())
    for other in others:
        part = Report(WANTED)
        part.add(other.inspector.finish())
        report.add_packed(json.loads(json.dumps(part.packed())))
    return [line for line, _ in report.lines(evictions, quiet)]


def test_key_that_is_fetched_three_times_in_a_test(tests: MarkedTests) -> None:
    tests.run("t.A.twice", *2 * [lambda client: client.get("shop:1:a:1")])
    tests.run("t.A.others", lambda client: client.get_many(f"shop:1:a:{n}" for n in range(9)))
    assert found(tests) == ["no findings"]
    with MarkedTests(WANTED) as tests:
        tests.run("t.A.a", *3 * [lambda client: client.get("shop:1:a:1")])
        tests.run("t.A.b", *5 * [lambda client: client.gets("shop:1:a:2")])
        tests.run("t.A.c", *4 * [lambda client: client.get("shop:1:a:1")])
        assert found(tests) == [
            "findings:",
            "  repeated: shop:1:a:# is fetched 3 times in one test (A.a and 2 more tests)",
        ]


def test_value_that_is_refused_on_purpose(tests: MarkedTests) -> None:
    """In an outage the test has asked for that; before and after it, it has not."""
    with tests.server.full():
        refused = [lambda client: client.set("shop:1:a", b"1", expire=60)]
        tests.run("t.A.a", lambda client: client.get("shop:1:b"), *2 * refused)
    assert tests.server.ended[-1]["cmd_get"] == "1"
    tests.run("t.A.b", lambda client: client.set("shop:1:c", b"x" * 3_000_000, expire=60))
    (_, line) = found(tests)
    assert line.startswith("  too-large: shop:1:c is refused: 3,000,000 bytes")


def test_key_that_is_never_read_in_the_whole_run(tests: MarkedTests) -> None:
    tests.run(
        "t.A.a",
        lambda client: client.set("shop:1:unread:1", b"1", expire=60),
        lambda client: client.set("shop:1:read:1", b"1", expire=60),
        lambda client: client.set("shop:1:elsewhere:1", b"1", expire=60),
    )
    tests.run("t.A.b", lambda client: client.get("shop:1:read:2"))
    with MarkedTests(WANTED) as others:  # those of another worker
        others.run("t.B.c", lambda client: client.get("shop:1:elsewhere:1"))
        assert found(tests, others) == [
            "findings:",
            "  never-read: shop:1:unread:# is set, and no such key is read in the whole run (A.a)",
        ]


def test_key_whose_presence_is_asked_for_is_read(tests: MarkedTests) -> None:
    tests.run(
        "t.A.a",
        lambda client: client.add("lock", b"1", expire=60),
        lambda client: client.set("counter", b"1", expire=60),
        lambda client: client.incr("counter", 1),
        lambda client: client.replace("missing", b"1"),  # stores nothing
    )
    assert found(tests) == ["no findings"]


def test_expiry_of_the_binary_protocol_is_said_to_be_unknown(tests: MarkedTests) -> None:
    with ExitStack() as stack:
        do = clients.bmemcached_client(tests.server.address, stack)
        tests.begin("t.A.a")
        do["set"]("key", b"1")
        do["get"]("key", b"")
        tests.end()
    (_, line) = found(tests)
    assert line == (
        "  some may be missing or wrong: the expiry of keys that clients set in the binary "
        "protocol is not known"
    )


def test_key_without_expiry(tests: MarkedTests) -> None:
    tests.run(
        "t.A.a",
        lambda client: client.set("shop:1:a", b"1", expire=60),
        lambda client: client.set("shop:1:b", b"1"),
        lambda client: client.get_many(["shop:1:a", "shop:1:b"]),
        lambda client: client.append("shop:1:a", b"1"),
        lambda client: client.cas("shop:1:a", b"1", b"12345"),  # which another has changed
    )
    assert found(tests) == ["findings:", "  no-expiry: shop:1:b is set without expiry (A.a)"]


def test_value_that_is_too_large(tests: MarkedTests) -> None:
    tests.run(
        "t.A.a",
        lambda client: client.set("shop:1:a", b"x" * 2_000_000, expire=60),
        lambda client: client.set("shop:1:a", b"x" * 3_000_000, expire=60),
        lambda client: client.get("shop:1:a"),
    )
    (_, line) = found(tests)
    assert line == (
        "  too-large: shop:1:a is refused: 3,000,000 bytes are too large, or there is no memory "
        "left (A.a)"
    )


def test_value_that_is_too_large_in_the_binary_protocol(tests: MarkedTests) -> None:
    value = os.urandom(1_500_000).hex().encode()  # too large even if the client compresses it
    with ExitStack() as stack:
        client = clients.bmemcached_client(tests.server.address, stack)
        tests.begin("t.A.a")
        with pytest.raises(bmemcached.exceptions.MemcachedException):
            client["set"]("shop:1:a", value)
        tests.end()
    assert found(tests)[1].startswith("  too-large: shop:1:a is refused: ")


def test_evictions(tests: MarkedTests) -> None:
    assert found(tests, evictions=1200) == [
        "findings:",
        "  evicted: 1,200 items gave way to others for want of memory",
    ]


def test_quiet_run_tells_of_findings_only(tests: MarkedTests) -> None:
    assert found(tests, quiet=True) == []
    assert len(found(tests, quiet=True, evictions=1)) == 2


def test_lines_are_cut(tests: MarkedTests) -> None:
    keys = [f"key-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    tests.run(
        "t.A.a",
        lambda client: client.set_many(dict.fromkeys(keys, b"1")),
        lambda client: client.get_many(keys),
    )
    lines = found(tests)
    assert len(lines) == 22
    assert lines[-1] == "  ... and 6 more"


def test_keys_of_a_test_beyond_a_limit_are_told(
    tests: MarkedTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "MOST_KEYS", 10)
    tests.run("t.A.a", lambda client: client.get_many(f"key{number}" for number in range(20)))
    tests.run("t.A.b", *3 * [lambda client: client.get("key")])
    assert found(tests) == [
        "findings:",
        f"  some may be missing or wrong: {findings.TOO_MANY_KEYS}",
        "  repeated: key is fetched 3 times in one test (A.b)",
    ]


def test_findings_beyond_a_limit_are_counted(
    tests: MarkedTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "MOST_FINDINGS", 3)
    for number in range(5):
        tests.run(f"t.A.a{number}", *3 * [lambda client: client.get("key")])
    assert found(tests) == [
        "findings:",
        "  repeated: key is fetched 3 times in one test (A.a0 and 2 more tests)",
        "  ... and 2 more",
    ]
