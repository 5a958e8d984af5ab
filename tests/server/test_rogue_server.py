"""Servers that answer nonsense: limits of an answer, and one error for all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import count, repeat

import pytest

from sandbox import Memcached, Server, ServerError
from sandbox.run.summary import Summary, contents

from ..helpers.rogues import counters, rogue, slowly

ITEM = "key=a exp=-1 la=1 cas=1 fetch=no cls=1 size=50"

LIMITS = "_memcached_sandbox.protocol."


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (repeat(b"STAT a 1\r\n" * 5000), "sent more than any answer"),
        (repeat(b"STAT a 1"), "sent no line but 'STAT a 1"),
        (slowly(repeat(b"STAT a 1\r\n")), "did not complete its answer in time"),
        (slowly(repeat(b"S")), "did not complete its answer in time"),
        ([b"STAT \x1b[2J\r\n::error::forged\r\n"], "answered '::error::forged' to 'stats', which"),
        ([b"\x1b[2J" * 100 + b"\r\n"], r"answered '(\\x1b\[2J){20}'... to 'stats', which"),
        ([b"SERVER_ERROR \x1b[2J\r\n"], r"answered 'SERVER_ERROR \\x1b\[2J' to 'stats'$"),
        (repeat(b"STATE a 1\r\n" * 5000), "answered 'STATE a 1' to 'stats', which"),
        (slowly(repeat(b"STATE a 1\r\n")), "answered 'STATE a 1' to 'stats', which"),
    ],
    ids=[
        *("lines", "line", "slow lines", "slow line", "forged", "long"),
        *("refusal", "unknown lines", "slow unknown lines"),
    ],
)
def test_stats_without_sense_or_end_are_a_server_error(
    monkeypatch: pytest.MonkeyPatch, pieces: Iterable[bytes], message: str
) -> None:
    monkeypatch.setattr("sandbox.server.ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(f"{LIMITS}LONGEST_ANSWER", 1_000_000)
    with rogue(lambda _: pieces) as address:
        with pytest.raises(ServerError, match=message) as info:
            Server(address).stats()
        assert str(info.value).isprintable()
        assert len(str(info.value)) < 500


def distinct_items() -> Iterator[bytes]:
    for number in count():
        yield f"{ITEM}\n".replace("=a", f"={number}").encode()


def dumping(pieces: Iterable[bytes], **values: object) -> Callable[[str], Iterable[bytes]]:
    """Return a server's answers, with these pieces for a dump and these counters."""
    return lambda request: pieces if "metadump" in request else [counters(**values)]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (distinct_items(), "sent more than any answer"),
        (slowly(repeat(ITEM.encode() + b"\n")), "did not complete its answer in time"),
        (repeat(b"OK\r\n" * 5000), "answered 'OK' to 'lru_crawler metadump all'"),
    ],
    ids=["items", "slow items", "OK"],
)
def test_items_without_an_end_are_a_server_error(
    monkeypatch: pytest.MonkeyPatch, pieces: Iterable[bytes], message: str
) -> None:
    slow = "time" in message
    monkeypatch.setattr(f"{LIMITS}DUMP_TIMEOUT", 0.3 if slow else 300)
    with rogue(dumping(pieces, curr_items=100)) as address:
        with pytest.raises(ServerError, match=message):
            Server(address).items()


def test_time_limit_of_an_answer_counts_what_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that sends as fast as its answer is read is never waited for."""
    monkeypatch.setattr(f"{LIMITS}DUMP_TIMEOUT", 0.3)
    with rogue(dumping(distinct_items(), curr_items=10**18)) as address:
        with pytest.raises(ServerError, match="did not complete its answer in time"):
            Server(address).items()


def test_busy_server_that_answers_slowly_is_a_server_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{LIMITS}DUMP_TIMEOUT", 0.3)
    with rogue(lambda request: slowly(dumping([b"BUS", b"Y\r\n"])(request))) as address:
        with pytest.raises(ServerError, match="did not complete its answer in time"):
            Server(address).items()


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("size=50", "size=nan", "size"),
        ("size=50", "size", "size"),
        (" size=50", "", "size"),
        ("size=50", "size=5\xb2", "size"),
        ("size=50", f"size={'9' * 5000}", "size"),
        ("exp=-1", "exp=nan", "exp"),
        ("exp=-1", "exp=1e999", "exp"),
        ("exp=-1 ", "", "exp"),
        ("key=a", "kay=a", "answered 'kay=a"),
    ],
)
def test_item_that_cannot_be_read_is_a_server_error(old: str, new: str, name: str) -> None:
    dump = f"{ITEM.replace(old, new)}\nEND\r\n".encode("latin-1")
    with rogue(dumping([dump])) as address:
        with pytest.raises(ServerError, match=name):
            Server(address).items()
        assert f"memcached at {address} answered " in contents(Server(address))


def test_key_that_is_no_percent_encoding_is_an_item() -> None:
    dump = b"key=%zz%ff%1b exp=7 size=50\nEND\r\n"
    with rogue(dumping([dump], version="", curr_items=9)) as address:
        ((key, size, expires),) = Server(address).items()
        assert (key, size, expires) == ("%zz\N{REPLACEMENT CHARACTER}\x1b", 50, 7)
        assert contents(Server(address)).startswith("- %zz\N{REPLACEMENT CHARACTER}\\x1b  50 bytes")


@pytest.mark.parametrize("name", ["cmd_get", "limit_maxbytes", "total_malloced"])
@pytest.mark.parametrize("value", ["", "-1", "nan", "1_0", "9" * 5000, "\x1b[2J"])
def test_summary_of_wrong_counters_is_a_line(name: str, value: str) -> None:
    summary = Summary("--memory")
    with rogue(lambda _: [counters(**{name: value})]) as address:
        summary.add_servers([Server(address)])
    (line,) = summary.lines()
    assert line.is_problem
    assert line.text.isprintable()
    assert f"memcached at {address} answered {name}='" in line.text


def test_summary_without_counters_is_a_line() -> None:
    summary = Summary("--memory")
    with rogue(lambda _: [b"END\r\n"]) as address:
        summary.add_servers([Server(address)])
        (line,) = summary.lines()
        assert "answered cmd_get='' in place of a number" in line.text
        assert "answered curr_items='' in place of a number" in contents(Server(address))


@pytest.mark.parametrize("answer", [b"what\r\n", b"ERROR\r\n", b"SERVER_ERROR \x1b[2J\r\n"])
def test_client_of_a_server_that_is_no_memcached_is_a_server_error(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr("sandbox.server.ANSWER_TIMEOUT", 0.3)
    with rogue(lambda _: [answer]) as address:
        with pytest.raises(ServerError, match=f"{address} answered '.") as info:
            Server(address).client()
    assert str(info.value).isprintable()


def test_client_of_a_server_that_sends_without_an_end_is_a_server_error() -> None:
    """pymemcache alone would read until the memory is used up."""
    with rogue(lambda _: repeat(b"x" * 1000)) as address:
        with pytest.raises(ServerError, match="memcached at .* sent no line but 'xxx"):
            Server(address).client()


def test_longest_stats_of_memcached_are_within_the_limits() -> None:
    with Memcached(max_connections=1024) as server, closing(server.client()) as client:
        client.set_many({f"{size}": "v" * size for size in range(0, 40_000, 100)})
        for group in ("", "items", "slabs", "sizes", "settings", "conns"):
            assert server.stats(group) or group == "sizes"
