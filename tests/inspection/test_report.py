"""The report of operations: by the pattern of keys, and by test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from operator import methodcaller
from pathlib import Path

import pytest

from sandbox.inspection import page, report, timeline, traffic
from sandbox.inspection.report import Report
from sandbox.inspection.wanted import Wanted

from ..helpers.marked_tests import MarkedTests
from ..helpers.pages import Page

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
        "unknown": 0,
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
        "unknown": 0,
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


@pytest.fixture
def paged(tmp_path: Path) -> Iterator[tuple[MarkedTests, Callable[[], Page]]]:
    """Yield tests, and what returns the page about them."""
    path = tmp_path / "report.html"
    wanted = Wanted(report_html=str(path))

    with MarkedTests(wanted) as marked:

        def page() -> Page:
            assert [*report_of(marked, wanted).write()] == []
            return Page(path.read_text(encoding="utf-8"))

        yield marked, page


def test_page_has_tables_and_timelines(paged: tuple[MarkedTests, Callable[[], Page]]) -> None:
    tests, page_about = paged
    run_shop(tests)
    tests.run("shop.CartTests.test_count", *[lambda client: client.get("n")] * 3)
    page = page_about()
    patterns, of_tests = page.tables
    assert patterns == [
        ["key", "operations", "gets", "hits", "sets", "expiry", "bytes", "tests"],
        ["shop:1:price:#", "5", "3", "33 %", "2", "60 to 300 s", "2,000", "2"],
        ["n", "3", "3", "0 %", "0", "", "0", "1"],
        ["shop:1:cart:#", "2", "1", "0 %", "1", "never", "1", "1"],
    ]
    assert of_tests == [
        ["test", "operations", "gets", "hits", "sets", "bytes"],
        ["BookTests.test_price shop.BookTests.test_price", "4", "2", "50 %", "2", "2,000"],
        ["CartTests.test_total shop.CartTests.test_total", "3", "2", "0 %", "1", "1"],
        ["CartTests.test_count shop.CartTests.test_count", "3", "3", "0 %", "0", "0"],
        ["CartTests.test_nothing", "0", "0", "", "0", "0"],
    ]
    assert page.bars == [100 / 3, 0, 0, 50, 0, 0]
    assert page.steps == [
        [
            "get shop:1:price:7 miss",
            "set shop:1:price:7 60 s, 1,000 bytes",
            "get shop:1:price:7 hit",
            "set shop:1:price:8 300 s, 1,000 bytes",
        ],
        [
            "get shop:1:price:7 miss",
            "get shop:1:cart:1 miss",
            "add shop:1:cart:1 never expires, 1 byte, miss",
        ],
        ["get n miss 3 times"],
    ]


def test_page_draws_each_kind_of_operation(paged: tuple[MarkedTests, Callable[[], Page]]) -> None:
    tests, page_about = paged
    tests.run(
        "t.A.a",
        lambda client: client.get("a"),
        lambda client: client.set("a", b"1"),
        lambda client: client.get("a"),
        lambda client: client.gets("a"),
        lambda client: client.add("a", b"2"),
        lambda client: client.replace("b", b"2"),
        lambda client: client.append("b", b"2"),
        lambda client: client.cas("a", b"3", client.gets("a")[1]),
        lambda client: client.cas("a", b"4", b"12345"),
        lambda client: client.set("k", b"x" * 1024 * 1024),
        lambda client: client.raw_command("mg a v", b"\r\n"),
        lambda client: client.flush_all(),
    )
    page = page_about()
    assert [*zip(page.steps[0], page.kinds[0], strict=True)] == [
        ("get a miss", "miss"),
        ("set a never expires, 1 byte", "set"),
        ("get a hit 2 times", "hit"),
        ("add a never expires, 1 byte, hit", "not-stored"),
        ("replace b never expires, 1 byte, miss", "not-stored"),
        ("append b 1 byte, miss", "not-stored"),
        ("get a hit", "hit"),
        ("cas a never expires, 1 byte, hit", "set"),
        ("cas a never expires, 1 byte, hit, refused", "not-stored"),
        ("set k never expires, 1,048,576 bytes, refused", "not-stored"),
        ("get a", "other"),
        ("flush", "other"),
    ]
    assert page.strips == [
        [
            *(("miss", 1), ("set", 1), ("hit", 1), ("not-stored", 3)),
            *(("hit", 1), ("set", 1), ("not-stored", 2), ("other", 2)),
        ]
    ]
    # Of 5 gets, all of one key, one is unknown, and 3 are hits.
    assert page.bars == [75, 75]
    assert page.notes[0] == (
        "Whether 1 get found the key is not known: memcached does not log the answers to meta "
        "commands."
    )


def test_page_tells_what_was_not_kept_or_missed(
    paged: tuple[MarkedTests, Callable[[], Page]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tests, page_about = paged
    monkeypatch.setattr(timeline, "MOST_STEPS", 2)
    monkeypatch.setattr(page, "MOST_DRAWN", 1)
    tests.run("t.A.a", lambda client: client.get_many(["a", "a", "a", "b", "c", "a"]))
    tests.run("t.A.b", lambda client: client.raw_command("verbosity 0"))
    shown = page_about()
    assert shown.steps == [["get a miss 3 times", "get b miss"]]
    assert shown.strips == [[("miss", 1)]]
    assert shown.tables[1][1][0] == "A.a ... t.A.a"
    assert "and 2 more that were not kept" in shown.notes
    assert shown.notes[0].startswith("Operations may be missing: a client has sent 'verb")


def test_page_of_several_attempts_and_servers_has_a_timeline_for_each(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    wanted = Wanted(report_html=str(path))
    addresses = []
    merged = Report(wanted)
    for keys in ("ab", "c"):  # two servers, the first one with two attempts
        with MarkedTests(wanted) as others:
            for key in keys:
                others.run("t.A.a", methodcaller("get", key))
            addresses += [f"at {others.server.address}"] * len(keys)
            merged.add_packed(json.loads(json.dumps(report_of(others, wanted).packed())))
    assert [*merged.write()] == []
    page = Page(path.read_text())
    assert page.steps == [["get a miss"], ["get b miss"], ["get c miss"]]
    assert page.tables[1][1][0] == "A.a t.A.a"
    assert [note for note in page.notes if note.startswith("at ")] == addresses


def test_longest_timelines_are_kept(
    paged: tuple[MarkedTests, Callable[[], Page]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tests, page_about = paged
    monkeypatch.setattr(report, "ROOM_OF_RUN", 2000)
    keys = [f"{letter}{'k' * 200}" for letter in "abcde"]
    for number in range(20):
        tests.run(f"t.A.test_{number}", methodcaller("get", keys[0]))
    tests.run("t.A.test_most", methodcaller("get_many", keys))
    tests.run("t.A.test_last", methodcaller("get", keys[0]))
    page = page_about()
    assert len(page.steps[0]) == 5
    assert page.tables[1][1][0] == "A.test_most t.A.test_most"
    kept = len(page.steps)
    assert 1 < kept < 5
    assert page.notes.count("1 that were not kept") == 22 - kept
    assert page.notes[0] == (
        f"There was no room for the timelines of {22 - kept} tests, the shortest ones."
    )


@pytest.mark.parametrize("room", [0, 100_000])
def test_timelines_of_a_server_take_limited_memory(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(timeline, "ROOM_OF_SERVER", room)
    with MarkedTests(Wanted(report_html="page")) as tests:
        tests.run("t.A.a", methodcaller("get", "key"))
        _, follower = tests.inspector.finish()
    assert isinstance(follower, timeline.TimelineFollower)
    assert bool(follower.timelines.by_test["t.A.a"]) == bool(room)


def test_page_of_no_test(paged: tuple[MarkedTests, Callable[[], Page]]) -> None:
    _, page_about = paged
    page = page_about()
    assert (page.tables, page.notes) == ([], ["No operation was seen."])


# Keys, how they are shown, and how their patterns are.
KEYS = [
    (b"\x1b[31mred", "\\x1b[31mred", "\\x1b[#mred"),
    ("\N{EURO SIGN}".encode(), "\N{EURO SIGN}", "\N{EURO SIGN}"),
    (b"with%20space", "with%20space", "with%#space"),
    (b"k" * 250, "k" * 250, "k" * 250),
    (b"<b>&amp;\"'</b>", "<b>&amp;\"'</b>", "<b>&amp;\"'</b>"),
    (b"{{7*7}}", "{{7*7}}", "{{#*#}}"),
    (b"\xff", "\\xff", "\\xff"),
    ("\N{RIGHT-TO-LEFT OVERRIDE}x".encode(), "\\u202ex", "\\u202ex"),
]


def test_keys_of_all_kinds_are_text_everywhere(tmp_path: Path) -> None:
    html, as_json = tmp_path / "report.html", tmp_path / "report.json"
    wanted = Wanted(report=True, report_html=str(html), report_json=str(as_json))
    with MarkedTests(wanted) as tests:
        tests.run("t.A.<i>", *[methodcaller("get", key) for key, *_ in KEYS])
        report = report_of(tests, wanted)
    assert [*report.write()] == []
    keys, shown, patterns = zip(*KEYS, strict=True)
    text = html.read_text(encoding="utf-8")
    assert "get <bdi>\N{EURO SIGN}</bdi> miss" in text  # were it from right to left, it stays there
    page = Page(text)
    assert page.steps == [[f"get {key} miss" for key in shown]]
    assert [row[0] for row in page.tables[0][1:]] == [*patterns]
    assert page.tables[1][1][0] == "A.<i> t.A.<i>"
    written = [row["pattern"] for row in json.loads(as_json.read_text())["patterns"]]
    texts = [key.decode(errors="backslashreplace") for key in keys]
    assert written == [re.sub(r"\d+", "#", text) for text in texts]
    printed = [line.split()[0] for line in lines(report)[2 : 2 + len(KEYS)]]
    assert printed == [name if len(name) < 100 else "k" * 97 + "..." for name in patterns]


def test_gets_of_unknown_outcome_are_neither_hits_nor_misses(tests: MarkedTests) -> None:
    tests.run(
        "t.A.a",
        lambda client: client.set("key", b"1"),
        lambda client: client.get("key"),
        lambda client: client.raw_command("mg key v", b"\r\n1\r\n"),
    )
    doubt, *table = lines(report_of(tests))
    assert doubt == (
        "whether 1 get found the key is not known: memcached does not log the answers to meta "
        "commands"
    )
    assert table[2].split()[:4] == ["key", "2", "100", "%"]
