"""Servers are emptied exactly, by both roads: their threads are seen at rest, or they are asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from pymemcache import Client

from sandbox import Memcached, Sandbox, Server, ServerError
from sandbox.inject import clients, emptying, guard, rest

from ..helpers.memcacheds import PUMP, PlainMemcached
from ..helpers.processes import eventually
from ..helpers.slabs import list_keys

each_road = pytest.mark.parametrize("sees_threads", [True, False], ids=["seen", "asked"])


def connected(server: Memcached) -> socket.socket:
    assert server.port
    return socket.create_connection((server.host, server.port))


def threads_shown() -> bool:
    """Return whether the kernel shows what the threads of a server wait in."""
    with Memcached() as server, closing(emptying.Emptier(5)) as emptier:
        return emptier.shows_threads(server.address)


@contextmanager
def pump(server: Memcached) -> Iterator[None]:
    command = [sys.executable, "-c", PUMP, str(server.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(1)
        yield
        process.kill()


@each_road
def test_server_that_does_not_come_to_rest_is_flushed_and_named(
    monkeypatch: pytest.MonkeyPatch, sees_threads: bool
) -> None:
    with Memcached() as server, closing(emptying.Emptier(5, sees_threads)) as emptier:
        assert emptier.empty([server.address]) == []
        monkeypatch.setattr(rest, "REST_TIMEOUT", 0.02)
        with pump(server):
            assert emptier.empty([server.address]) == [server.address]
        assert int(server.stats()["cmd_flush"]) >= 2
        monkeypatch.undo()
        assert emptier.empty([server.address]) == []
        assert server.items() == []


def test_flush_of_a_server_warns_of_a_client_that_writes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Memcached() as server, pump(server):
        monkeypatch.setattr(rest, "REST_TIMEOUT", 0.02)
        with pytest.warns(RuntimeWarning, match=f"memcached at {server.address} was flushed befo"):
            server.flush()
        match = f"memcached at {server.address} does not come to rest: a client writes on"
        with pytest.warns(RuntimeWarning, match=match) as warned, server.counting():
            pass
        assert {warning.filename for warning in warned} == {__file__}


def answers(address: str) -> bool:
    try:
        return bool(Server(address).stats())
    except ServerError:
        return False


@each_road
def test_restarted_server_gets_a_new_connection(sees_threads: bool) -> None:
    with closing(emptying.Emptier(5, sees_threads)) as emptier:
        with PlainMemcached() as server:
            emptier.empty([server.address])
        with PlainMemcached("-p", str(server.port)):
            eventually(lambda: answers(server.address))
            with closing(Client(server.address)) as client:
                client.set("key", "value", noreply=False)
                assert emptier.empty([server.address]) == []
                assert client.get("key") is None


def test_descriptors_that_a_test_has_closed_are_not_closed_again(tmp_path: Path) -> None:
    """Their numbers may be those of the test's own files by then."""
    with Memcached() as server, closing(emptying.Emptier(5)) as emptier, ExitStack() as files:
        emptier.empty([server.address])
        closed = [*emptier._servers[server.address]._identities]
        for descriptor in closed:
            os.close(descriptor)
        opened = [files.enter_context((tmp_path / "file").open("w")) for _ in range(20)]
        assert {*closed} <= {file.fileno() for file in opened}
        assert emptier.empty([server.address]) == []
        for file in opened:
            file.write("still open")
            file.flush()


def test_server_without_a_free_connection_is_flushed() -> None:
    with Memcached(max_connections=20) as server, closing(emptying.Emptier(5, False)) as emptier:
        emptier.empty([server.address])
        with closing(server.client()) as client, ExitStack() as clients:
            client.set("key", 1, noreply=False)
            for _ in range(30):
                clients.enter_context(connected(server))
            assert emptier.empty([server.address]) == [server.address]
            assert client.get("key") is None


def interrupted(*_: object) -> bool:
    raise KeyboardInterrupt


@each_road
def test_flush_after_an_interrupted_one_is_complete(
    monkeypatch: pytest.MonkeyPatch, sees_threads: bool
) -> None:
    with Memcached() as server, closing(emptying.Emptier(5, sees_threads)) as emptier:
        emptier.empty([server.address])
        with monkeypatch.context() as patch:
            patch.setattr(emptying._Server, "await_flush", interrupted)
            with pytest.raises(KeyboardInterrupt):
                emptier.empty([server.address])
        connections = int(server.stats()["total_connections"])
        emptier.empty([server.address])
        assert int(server.stats()["total_connections"]) > connections + 1


def test_threads_are_not_looked_for_in_another_pid_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Memcached() as server:
        for namespace, shows_threads in ((rest.pid_namespace(), True), ("pid:[1]", False)):
            monkeypatch.setenv("MEMCACHED_SANDBOX_PID_NAMESPACE", namespace)
            with closing(emptying.Emptier(5)) as emptier:
                assert emptier.shows_threads(server.address) is (shows_threads and threads_shown())


def test_second_write_without_an_answer_is_not_held_back() -> None:
    """By default pymemcache awaits no answer to a set, and has Nagle's algorithm on."""
    with Sandbox() as box, closing(Client(box.resolve(["main:1"])["main:1"])) as client:
        for _ in range(10):
            client.get("x")
            client.set("a", 1)
            client.set("b", 2)
            box.flush()
            assert client.get_many(["a", "b"]) == {}


def test_what_the_kernel_of_a_client_holds_back_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        address = f"{host}:{port}"
        guard.undelay([address])
        with socket.create_connection((host, port)) as client, listener.accept()[0] as server:
            assert clients.held_back([address]) == set()
            client.setblocking(False)
            sent = 0
            with suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(100_000))
            assert clients.held_back([address]) == {address}
            assert clients.held_back(["127.0.0.1:1"]) == set()
            while sent:
                sent -= len(server.recv(1_000_000))
            eventually(lambda: clients.held_back([address]) == set())


def test_sockets_that_are_no_clients_of_memcached_hinder_no_flush() -> None:
    with Sandbox() as box, closing(socket.socket(type=socket.SOCK_DGRAM)) as datagrams:
        host, _, port = box.resolve(["main:1"])["main:1"].rpartition(":")
        datagrams.connect((host, int(port)))
        closed = socket.create_connection((host, int(port)))
        os.close(closed.fileno())
        with open(os.devnull, "rb") as other:
            assert other.fileno() == closed.fileno()
            box.flush()
            closed.detach()


def test_threads_may_connect_during_a_flush() -> None:
    def connect() -> None:
        while not done.is_set():
            connected(server).close()

    done = threading.Event()
    with Memcached() as server, closing(emptying.Emptier(5)) as emptier:
        guard.undelay([server.address])
        threads = [threading.Thread(target=connect) for _ in range(3)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for _ in range(5000):
                clients.held_back([server.address])
            assert emptier.empty([server.address]) == []
        finally:
            sys.setswitchinterval(interval)
            done.set()
            for thread in threads:
                thread.join()


def test_crawl_leaves_no_key_to_list_by_slabs() -> None:
    with Memcached(crawl=True) as server:
        for _ in range(5):
            list_keys(server)
            server.flush()
