"""The report of leaks: its lines, and its file of JSON."""

from __future__ import annotations

import json

import pytest

from sandbox.inspection.leak_report import LeakReport
from sandbox.inspection.leaks import Replay
from sandbox.inspection.patterns import patterns

SHOP = [
    ("shop:1:price:7", "shop.BookTests.test_first", "shop.CartTests.test_total"),
    ("shop:1:cart:1", "shop.CartTests.test_add", "shop.CartTests.test_total"),
    ("shop:1:price:8", "shop.BookTests.test_first", "shop.CartTests.test_discount"),
]


def report(leaks: object, tests: int = 5, workers: int = 1, dropped: int = 0) -> LeakReport:
    made = LeakReport()
    made.add_packed((leaks, tests, workers, dropped, []))
    return made


def test_lines_fold_keys_and_join_tests() -> None:
    assert [*report(SHOP).lines()] == [
        "without isolation 3 keys of 2 tests would have reached 2 others:",
        "  shop:1:price:#   BookTests.test_first -> CartTests.test_total, CartTests.test_discount",
        "  shop:1:cart:#    CartTests.test_add   -> CartTests.test_total",
    ]


def test_parallel_run_says_what_was_compared() -> None:
    first, *_ = report(SHOP[:1], workers=2).lines()
    assert first == (
        "without isolation 1 key of 1 test would have reached 1 other, of those in the same worker:"
    )
    assert [*report([], workers=2).lines()] == [
        "without isolation none of 5 tests would have reached another, of those in the same worker"
    ]
    assert [*report([], tests=1).lines()] == [
        "without isolation none of 1 test would have reached another"
    ]


def test_run_without_tests_is_not_called_clean() -> None:
    (line,) = report([], tests=0).lines()
    assert line.startswith("nothing is known of leaks: no test of unittest, Django or pytest was ")


def test_lists_are_cut() -> None:
    many = [(f"key-{letter}", f"t.A.{letter}", "t.B.b") for letter in map(chr, range(97, 122))]
    _, *lines = report(many, dropped=7).lines()
    assert len(lines) == 21
    assert lines[19:] == ["  key-t   A.t -> B.b", "  ... and 12 more"]
    wide = [("key", "t.A.a", f"t.B.b{number}") for number in range(25)]
    _, line = report(wide).lines()
    assert line.endswith("B.b18, B.b19, 5 more")


@pytest.mark.parametrize(
    ("tests", "shown"),
    [
        (("a.b.C.test", "a.b.D.test"), "C.test -> D.test"),
        (("a.C.test", "b.C.test"), "a.C.test -> b.C.test"),
        (("t/a.py::C::test[x.y]", "t/a.py::test"), "C::test[x.y] -> a.py::test"),
        (("t/a.py::test[a::b]", "t/b.py::test"), "a.py::test[a::b] -> b.py::test"),
        (("t/a.py::test", "t/b/a.py::test"), "t/a.py::test -> t/b/a.py::test"),
        (("t.py::test[\x1b[31m]", "t.py::test[\n]"), "t.py::test[\\x1b[31m] -> t.py::test[\\n]"),
    ],
)
def test_tests_have_short_names(tests: tuple[str, str], shown: str) -> None:
    _, line = report([("key", *tests)]).lines()
    assert line == f"  key   {shown}"


def test_keys_are_escaped_in_lines_and_whole_in_json() -> None:
    keys = ["\x1b[31mred", "\N{EURO SIGN}", "with%20space", "k" * 250, "<b>"]
    made = report([(key, "t.A.a", "t.B.b") for key in keys])
    _, *lines = made.lines()
    assert [line.split()[0] for line in lines] == [
        "\\x1b[#mred",
        "\N{EURO SIGN}",
        "with%#space",
        "k" * 97 + "...",
        "<b>",
    ]
    written = json.loads(json.dumps(made.as_json()))
    assert [leak["key"] for leak in written["leaks"]] == keys


def test_json_has_all() -> None:
    assert report(SHOP[:1], tests=3, workers=2, dropped=4).as_json() == {
        "tests": 3,
        "workers": 2,
        "leaks": [
            {
                "key": "shop:1:price:7",
                "pattern": "shop:1:price:#",
                "left_by": "shop.BookTests.test_first",
                "found_by": "shop.CartTests.test_total",
            }
        ],
        "not_listed": 4,
        "warnings": [],
    }


def test_servers_of_one_process_are_one_worker() -> None:
    """A worker has a server for each main address, and all of them see its tests."""
    replays = [Replay() for _ in range(4)]
    for replay, tests in zip(replays, ("ab", "a", "cd", ""), strict=True):
        replay.tests, replay.periods = {*tests}, len(tests)
    made = LeakReport()
    made.add(replays)
    assert made.packed()[1:3] == (4, 2)


def test_caches_that_were_kept_all_the_time_are_told() -> None:
    """Then a test has found what another has left, and nothing is known."""
    replay = Replay()
    replay.tests, replay.periods = {"a", "b"}, 1
    made = LeakReport()
    made.add([replay])
    first, _ = made.lines()
    assert first == (
        "leaks may be missing or wrong: the caches of 2 tests were not emptied in between"
    )


def test_flaws_are_told() -> None:
    replay = Replay()
    replay.tests = {"a"}
    for _ in range(2):
        replay.note("the log of memcached at a:1 was lost: it is gone")
    made = LeakReport()
    made.add([replay])
    assert [*made.lines()] == [
        "leaks may be missing or wrong: the log of memcached at a:1 was lost: it is gone",
        "without isolation none of 1 test would have reached another",
    ]


@pytest.mark.parametrize(
    ("keys", "folded"),
    [
        (["shop:1:price:7", "shop:1:cart:12:x3"], ["shop:1:price:#", "shop:1:cart:#:x#"]),
        (["shop:1:price:7", "shop:2:price:7"], ["shop:#:price:#", "shop:#:price:#"]),
        (["v2:1:a", "v2:1:b"], ["v2:1:a", "v2:1:b"]),
        (["v2:1:a", "v3:1:b"], ["v#:#:a", "v#:#:b"]),
        ([":1:price:7"], [":1:price:#"]),
        (["user:7:name"], ["user:7:name"]),
        (["user:7:name", "user:8:name"], ["user:#:name", "user:#:name"]),
        (["a7", "7", ""], ["a#", "#", ""]),
    ],
)
def test_patterns(keys: list[str], folded: list[str]) -> None:
    assert [*patterns(keys).values()] == folded
