"""What a server held when a test failed: a line for each of its first items."""

from __future__ import annotations

from base64 import b64encode
from contextlib import closing

import pytest

from sandbox import Memcached
from sandbox.inject import protocol
from sandbox.run.summary import contents


def test_contents_of_many_items_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    read_line = protocol.Connection._read_line

    def counted(connection: protocol.Connection) -> str:
        lines.append(read_line(connection))
        return lines[-1]

    monkeypatch.setattr(protocol.Connection, "_read_line", counted)
    with Memcached() as server, closing(server.client()) as client:
        client.set_many({f"key{number:05}": "value" for number in range(30_000)}, noreply=False)
        shown = contents(server).splitlines()
        assert shown[-1] == "and up to 29,980 more"
        assert shown[:-1] == sorted(shown[:-1])
        assert len(shown) == 21
        assert len([line for line in lines if line.startswith("key=")]) == 21
        assert len(server.items()) == 30_000


def test_contents_lack_what_was_flushed() -> None:
    with Memcached() as server, closing(server.client()) as client:
        client.set_many({f"key{number}": "value" for number in range(100)}, noreply=False)
        server.flush()
        assert contents(server) == "no items"
        client.set("key", "value", noreply=False)
        assert contents(server).startswith("- key  ")
        assert len(contents(server).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"\x1b[31mred\n::error::forged", r"- \x1b[31mred\n::error::forged  "),
        ("\u202etxt".encode(), r"- \u202etxt  "),
        (b"::error::forged", "- ::error::forged  "),
    ],
)
def test_contents_are_printable_lines(key: bytes, shown: str) -> None:
    """memcached's meta commands take any bytes as a key, in base64."""
    with Memcached() as server, closing(server.client()) as client:
        client.raw_command(b"ms " + b64encode(key) + b" 2 b\r\nhi")
        (line,) = contents(server).splitlines()
        assert line.startswith(shown)
        assert line.isprintable()
