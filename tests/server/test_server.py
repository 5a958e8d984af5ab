"""Server: a memcached at an address, whichever process started it."""

from __future__ import annotations

from contextlib import closing

import pytest

from sandbox import Memcached, OptionError, Server, ServerError


def test_server_at_an_address_answers_while_it_runs() -> None:
    with Memcached() as server:
        other = Server(server.address)
        with closing(other.client()) as client:
            client.set("key", "value", noreply=False)
        assert [item.key for item in other.items()] == ["key"]
        other.flush()
        assert server.items() == []
        assert other.stats() != {}
        assert repr(other) == f"<Server {server.address}>"
    for ask in (other.stats, other.items, other.flush, other.client):
        with pytest.raises(ServerError, match=f"{other.address} does not answer: .*refused"):
            ask()


@pytest.mark.parametrize("text", ["a b", "host:port"])
def test_server_at_no_address_is_an_option_error(text: str) -> None:
    with pytest.raises(OptionError) as info:
        Server(text)
    assert info.value.option == "address"
    assert str(info.value) == f"address={text!r} is not HOST:PORT or unix:/PATH"
