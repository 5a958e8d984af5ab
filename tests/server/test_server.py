"""Server: a memcached at an address, whichever process started it."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
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


def test_server_at_an_ipv6_address_answers() -> None:
    def serve() -> None:
        with listener.accept()[0] as connection:
            assert connection.recv(100) == b"stats\r\n"
            connection.sendall(b"STAT pid 1\r\nEND\r\n")

    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener, ThreadPoolExecutor() as pool:
        listener.settimeout(10)
        served = pool.submit(serve)
        assert Server(f"[0:0::1]:{listener.getsockname()[1]}").stats() == {"pid": "1"}
        served.result()


@pytest.mark.parametrize("text", ["a b", "host:port", "localhost:99999"])
def test_server_at_no_address_is_an_option_error(text: str) -> None:
    with pytest.raises(OptionError) as info:
        Server(text)
    assert info.value.option == "address"
    assert str(info.value) == f"address={text!r} is not HOST:PORT, [IPV6]:PORT or unix:/PATH"
