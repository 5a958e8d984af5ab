"""A running server: its address, its options, and several servers at once."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from sandbox import Memcached


def test_server_is_a_memcached_at_its_address() -> None:
    with Memcached() as server:
        assert server.address == f"127.0.0.1:{server.port}"
        assert server.host == "127.0.0.1"
        with closing(server.client()) as client:
            client.set("key", "value")
            assert client.get("key") == b"value"
            assert int(client.stats()[b"pid"]) == server.pid


def test_flush_forgets_earlier_items_only() -> None:
    with Memcached() as server, closing(server.client()) as client:
        for number in range(200):
            client.set("key", "old")
            server.flush()
            assert client.get("key") is None
            client.set("key", number)
            assert client.get("key") == str(number).encode()


def test_options_reach_memcached() -> None:
    with Memcached(
        memory_mb=8, max_item_size=2 * 1024 * 1024, threads=2, max_connections=77, args=["-f1.3"]
    ) as server:
        settings = server.stats("settings")
        assert settings["maxbytes"] == str(8 * 1024 * 1024)
        assert settings["item_size_max"] == str(2 * 1024 * 1024)
        assert settings["num_threads"] == "2"
        assert settings["maxconns"] == "77"
        assert settings["growth_factor"] == "1.30"


def test_one_megabyte_is_enough_for_small_items() -> None:
    with Memcached(memory_mb=1, max_item_size=512 * 1024) as server:
        assert server.stats()["limit_maxbytes"] == str(1024 * 1024)


def test_servers_launched_side_by_side_have_their_own_addresses() -> None:
    servers = [Memcached() for _ in range(3)]
    for server in servers:
        server.launch()
    for server in servers:
        server.wait()
    assert len({server.address for server in servers}) == 3
    for server in servers:
        server.stop()


def test_servers_started_by_32_threads_have_32_ports() -> None:
    servers = [Memcached() for _ in range(32)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(Memcached.start, servers))
        assert len({server.port for server in servers}) == 32
        assert len({server.stats()["pid"] for server in servers}) == 32
        list(pool.map(Memcached.stop, servers))


@pytest.mark.parametrize("unix_socket", [False, True])
def test_server_runs_without_the_features_of_linux(
    monkeypatch: pytest.MonkeyPatch, unix_socket: bool
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("TMPDIR", folder)
        with Memcached(unix_socket=unix_socket) as server:
            server.flush()
        assert os.listdir(folder) == []
