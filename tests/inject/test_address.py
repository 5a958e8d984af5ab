"""How addresses are parsed and printed."""

from __future__ import annotations

import json

import pytest

from sandbox.inject import address, locations

Address = address.Address


@pytest.mark.parametrize(
    ("text", "usual", "peer"),
    [
        ("127.0.0.1:11212", "127.0.0.1:11212", ("127.0.0.1", 11212)),
        (" Cache.Example.org ", "cache.example.org:11211", ("cache.example.org", 11211)),
        (":11212", "localhost:11212", ("localhost", 11212)),
        ("[::1]:11212", "[::1]:11212", ("::1", 11212)),
        ("[0:0::1]:11212", "[::1]:11212", ("::1", 11212)),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]:11211", ("2001:db8::1", 11211)),
        ("::1", "[::1]:11211", ("::1", 11211)),
        ("::1:11212", "[::1]:11212", ("::1", 11212)),
        ("[::ffff:127.0.0.1]:11212", "127.0.0.1:11212", ("127.0.0.1", 11212)),
        ("[FE80::1%eth0]", "[fe80::1%eth0]:11211", ("fe80::1%eth0", 11211)),
        ("/run/Memcached.sock", "unix:/run/Memcached.sock", "/run/Memcached.sock"),
        ("UNIX:/run/A:b", "unix:/run/A:b", "/run/A:b"),
        ("unix:here.sock", "unix:here.sock", "here.sock"),
    ],
)
def test_address_has_one_spelling(text: str, usual: str, peer: str | tuple[str, int]) -> None:
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
        ("0:0::1", 11212, "[::1]:11212"),
        ("", 11212, "localhost:11212"),
    ],
)
def test_address_of_host_and_port(host: str, port: object, usual: str) -> None:
    parsed = Address.at(host, port)
    assert parsed == usual
    assert parsed.path == ""
    assert f"{parsed.host}/{parsed.port}" == usual.replace("[::1]", "::1").replace(":112", "/112")


def test_address_of_a_path_has_no_host_and_no_port() -> None:
    parsed = Address.at_path("/run/m.sock ")
    assert (parsed.path, parsed.host, parsed.port) == ("/run/m.sock ", "", "")


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a;b", "a:1,b:2", "host:port", "unix:", "a:0", "a:65536", "11211", ":::", 3],
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r" is not HOST:PORT, \[IPV6\]:PORT or unix:/PATH") as info:
        Address.parse(text)
    assert repr(text) in str(info.value)


@pytest.mark.parametrize("text", ["a:port", "a:-1", f"a:{'1' * 5000}", "unix:/\ud800", "unix:\0"])
def test_place_of_an_address_that_leads_nowhere_is_like_no_other(text: str) -> None:
    assert Address(text).place not in {Address(spelled).place for spelled in ("a:1", "a", "unix:/")}


@pytest.mark.parametrize("location", ["a:1,b", ["a:1", "/m"], [("::1", 11211)]])
def test_addresses_of_a_location_are_plain_strings(location: object) -> None:
    """Settings, pickles and execnet get them."""
    assert {type(text) for text in locations.addresses(location)} == {str}
