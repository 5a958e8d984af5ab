"""pylibmc and libmc connect in C, and are refused a main address when a client is made."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sandbox.errors import MainMemcachedRefused
from sandbox.inject import refusals
from sandbox.run.local import sandbox_run

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached, PlainMemcached

Make = Callable[[str], object]

# How clients are made with an address and port.
PYLIBMC: list[Make] = [
    lambda address: sys.modules["pylibmc"].Client(["127.0.0.1:9", address]),
    lambda address: sys.modules["pylibmc"].Client((f"{address}:2",), binary=True),
    lambda address: sys.modules["pylibmc"].Client(servers=[f"udp:{address}"]),
    lambda address: sys.modules["pylibmc"].Client([(1, address.split(":")[0], int(address[-5:]))]),
]
LIBMC: list[Make] = [
    lambda address: sys.modules["libmc"].Client([address]),
    lambda address: sys.modules["libmc"].Client(["127.0.0.1:9"]).update_servers([address]),
    lambda address: sys.modules["libmc"].ClientUnsafe([f"{address} alias"]),
    lambda address: sys.modules["libmc"].ThreadedClient(servers=[address]),
    lambda address: sys.modules["libmc"].ClientPool([address]),
]


@pytest.mark.parametrize(("library", "ways"), [("pylibmc", PYLIBMC), ("libmc", LIBMC)])
def test_clients_are_refused_a_main_address_while_a_run_lasts(
    library: str, ways: list[Make], main_memcached: MainMemcached
) -> None:
    """Also those of a library that was imported before, and by another name of this machine."""
    pytest.importorskip(library)
    main = main_memcached.address
    with sandbox_run(guard=[main]) as entered:
        for make in ways:
            for address in (main, main.replace("127.0.0.1", "localhost")):
                with pytest.raises(MainMemcachedRefused, match=address):
                    make(address)
        taken = refusals.faults(entered.take_refusals())
        assert len(taken) == 2 * len(ways)
        assert {refusal.at.rpartition(":")[0] for refusal in taken} == {__file__}
    for make in ways:
        make(main)
    main_memcached.assert_untouched()


@pytest.mark.parametrize("library", ["pylibmc", "libmc"])
def test_clients_of_a_command_are_refused_and_reported(
    library: str, run: Run, main_memcached: MainMemcached
) -> None:
    pytest.importorskip(library)
    script = f"import {library}; {library}.Client(['{main_memcached.address}']).set('key', 1)"
    guarded = ("--guard", main_memcached.address, "--", sys.executable, "-c", script)
    result = run("sandbox", "exec", *guarded)
    assert "MainMemcachedRefused" in result.stderr
    assert f"refused once ({main_memcached.address})" in result.stderr
    main_memcached.assert_untouched()


@pytest.mark.parametrize("library", ["pylibmc", "libmc"])
def test_clients_reach_the_sandbox_and_keep_their_nature(library: str) -> None:
    module: Any = pytest.importorskip(library)
    before = {name: vars(kind).copy() for name, kind in vars(module).items() if is_client(kind)}
    with PlainMemcached() as other, sandbox_run(guard=["/run/main.sock"]) as entered:
        for server in (*entered.resolve(["127.0.0.1:11211"]).values(), other.address):
            client = module.Client([server])
            assert type(client) is module.Client
            assert client.set("key", "value")
            assert client.get("key") == "value"
        if library == "libmc":
            assert pickle.loads(pickle.dumps(client)).servers == [other.address]
            unsafe = module.ClientUnsafe([other.address])
            assert type(pickle.loads(pickle.dumps(unsafe))) is module.ClientUnsafe
    after = {name: vars(kind).copy() for name, kind in vars(module).items() if is_client(kind)}
    assert after == before


def is_client(value: object) -> bool:
    return isinstance(value, type) and value.__name__.endswith(("Client", "ClientPool", "Unsafe"))


def test_pylibmc_sends_at_once_to_sandbox_servers_only() -> None:
    """libmc does so everywhere, by itself."""
    pylibmc = pytest.importorskip("pylibmc")
    with sandbox_run() as entered:
        (server,) = entered.resolve(["127.0.0.1:11211"]).values()
        for behaviors in (None, {"tcp_nodelay": False}):
            client = pylibmc.Client(["127.0.0.1:9", server], behaviors=behaviors)
            assert client.behaviors["tcp_nodelay"]
            assert client.clone().behaviors["tcp_nodelay"]
        assert not pylibmc.Client(["127.0.0.1:9"]).behaviors["tcp_nodelay"]
    assert not pylibmc.Client([server]).behaviors["tcp_nodelay"]
