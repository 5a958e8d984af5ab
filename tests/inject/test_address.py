"""Addresses are parsed and printed."""

from __future__ import annotations

import json

import pytest

from sandbox.inject import address

Address = address.Address


@pytest.mark.parametrize(
    ("text", "usual", "peer"),
    [
        ("127.0.0.1:11212", "127.0.0.1:11212", ("127.0.0.1", 11212)),
        (" Cache.Example.org ", "cache.example.org:11211", ("cache.example.org", 11211)),
        (":11212", "localhost:11212", ("localhost", 11212)),
        ("", "localhost:11211", ("localhost", 11211)),
        ("[::1]:11212", "[::1]:11212", ("::1", 11212)),
        ("[FE80::1%eth0]", "[fe80::1%eth0]:11211", ("fe80::1%eth0", 11211)),
        ("/run/Memcached.sock", "unix:/run/Memcached.sock", "/run/Memcached.sock"),
        ("unix:/run/a:b", "unix:/run/a:b", "/run/a:b"),
    ],
)
def test_each_spelling_of_an_address_is_parsed(
    text: str, usual: str, peer: str | tuple[str, int]
) -> None:
    parsed = Address.parse(text)
    assert parsed == usual
    assert parsed.peer == peer
    assert Address(parsed) == parsed
    assert json.loads(json.dumps({parsed: parsed})) == {usual: usual}


@pytest.mark.parametrize(
    ("host", "port", "usual"),
    [
        ("127.0.0.1", 11212, "127.0.0.1:11212"),
        ("LocalHost", "11212", "localhost:11212"),
        ("::1", 11212, "[::1]:11212"),
        ("[::1]", 11212, "[::1]:11212"),
        ("", 11212, "localhost:11212"),
    ],
)
def test_address_is_made_of_host_and_port(host: str, port: object, usual: str) -> None:
    parsed = Address.of(host, port)
    assert parsed == usual
    assert parsed.path == ""
    assert f"{parsed.host}/{parsed.port}" == usual.replace("[::1]", "::1").replace(":112", "/112")


def test_path_has_no_host_and_no_port() -> None:
    parsed = Address("/run/m.sock")
    assert (parsed.path, parsed.host, parsed.port) == ("/run/m.sock", "", "")


@pytest.mark.parametrize("text", ["a b", "a;b", "a:1,b:2", "host:port", "unix:", "::1", "a:123456"])
def test_malformed_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r" is not HOST:PORT or unix:/PATH") as info:
        Address.parse(text)
    assert repr(text) in str(info.value)
