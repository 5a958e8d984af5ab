"""The report of operations: by the pattern of keys, and by test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.inspection import traffic
from sandbox.inspection.report import Report
from sandbox.inspection.wanted import Wanted

from ..helpers.marked_tests import MarkedTests

WANTED = Wanted(report=True, report_top=3)


@pytest.fixture
def tests() -> Iterator[MarkedTests]:
    with MarkedTests(WANTED) as tests:
        yield tests


def report_of(tests: MarkedTests, wanted: Wanted = WANTED) -> Report:
    report = Report(wanted)
    report.add(tests.inspector.finish())
    return report


def lines(report: Report) -> list[str]:
    return [line for line, _ in report.lines(evictions=0, quiet=False)]


def run_shop(tests: MarkedTests) -> None:
    tests.run(
        "shop.BookTests.test_price",
        lambda client: client.get("shop:1:price:7"),
        lambda client: client.set("shop:1:price:7", b"x" * 1000, expire=60),
        lambda client: client.get("shop:1:price:7"),
        lambda client: client.set("shop:1:price:8", b"x" * 1000, expire=300),
    )
    tests.run(
        "shop.CartTests.test_total",
        lambda client: client.get_many(["shop:1:price:7", "shop:1:cart:1"]),
        lambda client: client.add("shop:1:cart:1", b"x"),
    )
    tests.run("shop.CartTests.test_nothing")


def test_tables(tests: MarkedTests) -> None:
    run_shop(tests)
    assert lines(report_of(tests)) == [
        "keys with most operations, of 2:",
        "  key              gets   hits   sets        expiry   bytes   tests",
        "  shop:1:price:#      3   33 %      2   60 to 300 s   2,000       2",
        "  shop:1:cart:#       1    0 %      1         never       1       1",
        "tests with most operations, of 3:",
        "  test                     operations   gets   hits   sets   bytes",
        "  BookTests.test_price              4      2   50 %      2   2,000",
        "  CartTests.test_total              3      2    0 %      1       1",
        "  CartTests.test_nothing            0      0             0       0",
    ]


def test_top_cuts_the_tables(tests: MarkedTests) -> None:
    run_shop(tests)
    report = Report(Wanted(report_top=1))
    report.add(tests.inspector.finish())
    assert [line.split()[0] for line in lines(report)] == [
        *("keys", "key", "shop:1:price:#"),
        *("tests", "test", "BookTests.test_price"),
    ]


def test_reports_of_several_processes_are_merged(tests: MarkedTests) -> None:
    run_shop(tests)
    with MarkedTests(WANTED) as others:
        run_shop(others)
        others.run("a.B.other", lambda client: client.get("shop:1:price:9"))
        packed = json.loads(json.dumps(report_of(others).packed()))  # as between processes
    report = report_of(tests)
    report.add_packed(packed)
    table = lines(report)
    assert " ".join(table[2].split()) == "shop:1:price:# 7 29 % 4 60 to 300 s 4,000 3"
    assert " ".join(table[6].split()) == "BookTests.test_price 8 4 50 % 4 4,000"


def test_keys_of_workers_with_other_versions_are_folded(tests: MarkedTests) -> None:
    tests.run("a.A.a", lambda client: client.get("shop:1:price:7"))
    with MarkedTests(WANTED) as others:
        others.run("b.B.b", lambda client: client.get("shop:2:price:7"))
        packed = report_of(others).packed()
    report = report_of(tests)
    report.add_packed(packed)
    assert lines(report)[2].split()[0] == "shop:#:price:#"


def test_json_has_all(tests: MarkedTests, tmp_path: Path) -> None:
    run_shop(tests)
    tests.run("t.A.\N{EURO SIGN}", lambda client: client.get(b"\xe2\x82\xac"))
    report = report_of(tests, Wanted(report_json=str(tmp_path / "report.json")))
    assert [*report.write()] == []
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["patterns"][0] == {
        "pattern": "shop:1:price:#",
        "operations": 5,
        "gets": 3,
        "hits": 1,
        "sets": 2,
        "bytes": 2000,
        "tests": 2,
        "expiry": {
            "shortest": 60,
            "longest": 300,
            "dates": False,
            "never": False,
            "unknown": False,
        },
    }
    assert written["tests"][0] == {
        "test": "shop.BookTests.test_price",
        "operations": 4,
        "gets": 2,
        "hits": 1,
        "sets": 2,
        "bytes": 2000,
    }
    assert written["patterns"][2]["pattern"] == "\N{EURO SIGN}"
    assert written["warnings"] == []
    assert lines(report) == []


def test_sessions_and_digests_are_one_pattern(tests: MarkedTests) -> None:
    keys = [
        "s:1:django.contrib.sessions.cache" + "k2j3h4g5f6d7s8a9k2j3h4g5f6d7s8a9",
        "s:1:django.contrib.sessions.cache" + "zx1cv2bn3mq4we5rt6yu7io8pa9sd0fg",
        "s:1:page.d41d8cd98f00b204e9800998ecf8427e.en",
        "s:1:page.0cc175b9c0f1b6a831c399e269772661.en",
        "s:1:7f3a5c1e-93b2-4f8e-a1d0-0b6c2d9e8f71",
        "s:1:0a1b2c3d-aaaa-bbbb-cccc-0123456789ab",
    ]
    tests.run("t.A.a", lambda client: client.get_many(keys))
    table = lines(report_of(tests))
    assert [line.split()[0] for line in table[2:5]] == [
        "s:1:django.contrib.sessions.#",
        "s:1:page.#.en",
        "s:1:#",
    ]


def test_patterns_beyond_a_limit_are_one(
    tests: MarkedTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "MOST_PATTERNS", 2)
    tests.run("t.A.a", lambda client: client.get_many(["a", "b", "c", "d", "e"]))
    assert lines(report_of(tests))[2].split() == ["(other", "keys)", "3", "0", "%", "0", "0", "1"]


def test_attempts_and_examples_are_one_test(tests: MarkedTests) -> None:
    for _ in range(3):
        tests.run("t.A.a", lambda client: client.get("key"))
    report = report_of(tests)
    assert lines(report)[2].split() == ["key", "3", "0", "%", "0", "0", "1"]


def test_run_without_operations(tests: MarkedTests) -> None:
    assert lines(report_of(tests)) == ["no operation was seen"]


def test_disturbed_log_is_told(tests: MarkedTests) -> None:
    tests.run("t.A.a", lambda client: client.raw_command("verbosity 0"))
    first, *_ = lines(report_of(tests))
    assert first.startswith("operations may be missing in what follows: a client has sent 'verb")
