"""Servers that are broken on purpose: down, hung, full and restarted."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pymemcache
import pytest
from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError

from sandbox import Memcached, Sandbox, ServerError
from sandbox.registry import inventory

from ..conftest import Run
from ..helpers.owners import Owner
from ..helpers.processes import is_running, script

if TYPE_CHECKING:
    from sandbox.server.options import MemcachedOptions

STORED = "set other never expires, 1 byte"
KINDS = ("down", "hung", "full")


@pytest.fixture(params=[False, True], ids=["tcp", "unix"])
def server(request: pytest.FixtureRequest) -> Iterator[Memcached]:
    with Memcached(unix_socket=request.param, memory_mb=8) as server:
        yield server


@pytest.fixture
def client(server: Memcached) -> Iterator[pymemcache.Client]:
    with closing(server.client()) as client:
        client.set("key", "value", noreply=False)
        yield client


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that memcached reaches by its path as another user, as it must on macOS."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        assert os.listdir(folder) == []


def test_down_refuses_and_cuts_connections_and_comes_back_empty(
    server: Memcached, client: pymemcache.Client
) -> None:
    address, pid = server.address, server.pid
    with server.down():
        assert not is_running(pid)
        with pytest.raises((MemcacheUnexpectedCloseError, BrokenPipeError)):
            client.get("key")
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                client.get("key")
    assert server.address == address
    assert server.pid != pid
    assert client.get("key") is None
    assert client.set("key", "value", noreply=False)


def test_hung_server_accepts_and_does_not_answer_and_loses_nothing(
    server: Memcached, client: pymemcache.Client
) -> None:
    pid = server.pid
    with (
        server.hung(),
        closing(pymemcache.Client(server.address, connect_timeout=60, timeout=0.05)) as other,
    ):
        assert {thread.id for thread in psutil.Process(pid).threads()} == _stopped_threads(pid)
        with pytest.raises(TimeoutError):
            other.get("key")
    assert (server.pid, client.get("key")) == (pid, b"value")


def _stopped_threads(pid: int) -> set[int]:
    folder = Path(f"/proc/{pid}/task")
    if not folder.exists():
        return {thread.id for thread in psutil.Process(pid).threads()}
    return {
        int(task.name)
        for task in folder.iterdir()
        if (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    }


def test_full_server_refuses_values_of_all_sizes(
    server: Memcached, client: pymemcache.Client
) -> None:
    with server.full():
        with suppress(MemcacheUnexpectedCloseError, BrokenPipeError):
            client.get("key")  # It finds out that the server was started anew.
        for size in (1, 100, 10_000, 500_000, 600_000, 1_000_000):
            with pytest.raises(MemcacheServerError, match="out of memory"):
                client.set("key", "x" * size, noreply=False)
        with pytest.raises(MemcacheServerError, match="out of memory"):
            client.add("other", "x", noreply=False)
        assert client.get("key") is None
    with closing(server.client()) as another:
        assert another.set("key", "x" * 100_000, noreply=False)
        assert [item.key for item in server.items()] == ["key"]


def test_full_server_stays_so_when_it_is_flushed(
    server: Memcached, client: pymemcache.Client
) -> None:
    with server.full(), closing(server.client()) as another:
        assert server.items() == []
        another.flush_all(noreply=False)
        another.flush_all(noreply=False)
        for _ in range(10):
            with pytest.raises(MemcacheServerError, match="out of memory"):
                another.set("key", "x", noreply=False)
    assert server.stats()["cmd_set"] == "0"
    assert server.ended[-1]["cmd_set"] == server.ended[-1]["delete_hits"] == "0"


@pytest.mark.parametrize(
    "options",
    [
        {"max_item_size": 4 * 1024 * 1024},
        {"args": ["-f", "1.1", "-n", "1000"]},
        {"threads": 4},
    ],
)
def test_full_server_of_any_kind(options: MemcachedOptions) -> None:
    with Memcached(**options) as server, server.full(), closing(server.client()) as client:
        for size in (1, 300_000):
            with pytest.raises(MemcacheServerError, match="out of memory"):
                client.set("key", "x" * size, noreply=False)


def test_server_that_cannot_be_filled_is_as_it_was_but_empty() -> None:
    with Memcached(args=["-o", "slab_sizes=100-1000-5000"]) as server:
        with pytest.raises(ServerError, match="cannot be made full: "), server.full():
            pass
        assert server.outage == ""
        with closing(server.client()) as client:
            assert client.set("key", "value", noreply=False)


def test_restart_cuts_connections_and_empties(server: Memcached, client: pymemcache.Client) -> None:
    address, pid = server.address, server.pid
    server.restart()
    assert server.address == address
    assert server.pid != pid
    with pytest.raises((MemcacheUnexpectedCloseError, BrokenPipeError)):
        client.get("key")
    assert client.get("key") is None


def test_each_use_of_a_broken_server_says_what_it_is(server: Memcached) -> None:
    with server.down():
        for use in (server.stats, server.items, server.flush, server.client):
            with pytest.raises(ServerError, match="is down, in an outage that was asked for"):
                use()
        assert server.exit_reason() is None
    with (
        server.hung(),
        pytest.raises(ServerError, match="is hung, in an outage .*: end that first"),
    ):
        server.flush()
    with (
        server.full(),
        pytest.raises(ServerError, match="is full, in an outage .*: end that first"),
    ):
        server.flush()


@pytest.mark.parametrize("kind", KINDS)
def test_second_outage_of_the_same_server_is_an_error(server: Memcached, kind: str) -> None:
    with getattr(server, kind)():
        for other in KINDS:
            with pytest.raises(ServerError, match=f"is {kind} already: end that outage first"):
                getattr(server, other)().__enter__()
        with pytest.raises(ServerError, match=f"is {kind} already"):
            server.restart()
        assert server.outage == kind
    server.flush()


def test_outage_of_a_server_that_does_not_run_is_an_error() -> None:
    server = Memcached()
    with pytest.raises(ServerError, match=r"does not run: start\(\) it"), server.down():
        pass
    with server:
        os.kill(server.pid, signal.SIGKILL)
        for kind in KINDS:
            with (
                pytest.raises(ServerError, match="was killed by signal 9"),
                getattr(server, kind)(),
            ):
                pass
        with pytest.raises(ServerError, match="was killed by signal 9"):
            server.restart()


def test_server_that_is_stopped_in_an_outage_stays_so() -> None:
    server = Memcached()
    for kind in KINDS:
        server.start()
        with getattr(server, kind)():
            pid = server.pid
            server.stop()
        assert not is_running(pid)
        with pytest.raises(ServerError, match="does not run"):
            server.stats()


@pytest.mark.parametrize("kind", KINDS)
def test_server_is_mended_after_any_error(server: Memcached, kind: str) -> None:
    with pytest.raises(ZeroDivisionError), getattr(server, kind)():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), getattr(server, kind)():
        signal.raise_signal(signal.SIGINT)
    server.flush()
    assert server.outage == ""


@pytest.mark.parametrize("kind", ["hung", "full"])
def test_server_that_is_killed_in_an_outage_works_afterwards(server: Memcached, kind: str) -> None:
    with getattr(server, kind)():
        os.kill(server.pid, signal.SIGKILL)
        assert server.exit_reason() is None
    server.flush()
    assert server.exit_reason() is None


def test_outage_that_is_left_can_be_mended(server: Memcached) -> None:
    for kind in KINDS:
        left = getattr(server, kind)()
        left.__enter__()
        assert server.mend()
        server.flush()
        assert not server.mend()
        left.__exit__(None, None, None)  # There is nothing to do any more.
        with server.hung():
            left.__exit__(None, None, None)
            assert server.outage == "hung"


FORKS = """
import os
from sandbox import Memcached, ServerError

def in_fork(act):
    if (child := os.fork()) == 0:
        act()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def restart():
    try:
        server.restart()
    except ServerError as error:
        assert "belongs to process" in str(error), error
    else:
        raise AssertionError

with Memcached() as server:
    for kind in ("down", "hung", "full"):
        outage = getattr(server, kind)()
        with outage:
            in_fork(lambda: outage.__exit__(None, None, None))
            in_fork(server.mend)
            assert server.outage == kind
            in_fork(restart)
        server.flush()
    in_fork(restart)
    server.flush()
"""


def test_fork_neither_mends_nor_breaks_the_server_of_its_parent(python: Run) -> None:
    result = python(FORKS)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_owner_that_is_killed_in_an_outage_leaves_nothing(run_folder: Path, kind: str) -> None:
    then = (
        f"with server.{kind}():\n    print(server.pid, server.port, flush=True)\n    time.sleep(99)"
    )
    with Owner(then) as owner:
        assert owner.process.stdout is not None
        pid, port = map(int, owner.process.stdout.readline().split())
        owner.process.kill()
        owner.process.wait()
        owner.server_pid = pid
        owner.assert_nothing_left(run_folder)
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))


def test_owner_that_exits_in_an_outage_leaves_nothing(run_folder: Path) -> None:
    then = "outages = [server.hung()]\noutages[0].__enter__()\nprint('left')"
    with Owner(then) as owner:
        assert owner.read() == "left\n"
        assert owner.process.wait() == 0
        owner.assert_nothing_left(run_folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a port be held")
def test_port_is_never_lost_while_others_bind_theirs(run_folder: Path) -> None:
    """40 times down, while another thread binds what ephemeral ports the kernel gives it."""
    has_ended = threading.Event()
    taken: set[int] = set()

    def bind() -> None:
        while not has_ended.is_set():
            sockets = [socket.socket() for _ in range(100)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
                taken.add(each.getsockname()[1])
                each.close()

    with Memcached() as server:
        thread = threading.Thread(target=bind)
        thread.start()
        try:
            for _ in range(40):
                with server.down():
                    for _ in range(20):
                        assert _connect_error(server) == errno.ECONNREFUSED
                server.stats()
        finally:
            has_ended.set()
            thread.join()
        assert len(taken) > 100
        assert server.port not in taken


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a port be held")
def test_port_cannot_be_taken_on_purpose() -> None:
    with Memcached() as server:
        assert server.port is not None
        for _ in range(2):
            with server.down():
                with pytest.raises(OSError, match="Address already in use"):
                    socket.create_server(("127.0.0.1", server.port))
                assert _connect_error(server) == errno.ECONNREFUSED
            server.flush()


def test_hung_server_without_a_free_connection_loses_nothing() -> None:
    with Memcached(max_connections=20) as server, ExitStack() as clients:
        client = clients.enter_context(closing(server.client()))
        client.set("key", "value", noreply=False)
        pid = server.pid
        with server.hung():
            for _ in range(40):
                assert server.port is not None
                clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert (server.pid, client.get("key")) == (pid, b"value")


def _connect_error(server: Memcached) -> int:
    assert server.port is not None
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", server.port))


def test_server_that_cannot_be_started_again_says_so(tmp_path: Path) -> None:
    once = script(
        tmp_path / "once",
        f"#!/bin/sh\nmkdir {tmp_path}/had 2>/dev/null || {{ echo no more; exit 3; }}\n"
        'exec memcached "$@"\n',
    )
    with Memcached(binary=once) as server:
        with (
            pytest.raises(
                ServerError, match="cannot be mended: .*exit code 3, saying: no more bef"
            ),
            server.down(),
        ):
            pass
        reason = server.exit_reason()
        assert reason is not None
        assert reason.startswith("could not be started again: ")
        for use in (server.flush, server.stats):
            with pytest.raises(ServerError, match="could not be started again: "):
                use()
        with pytest.raises(ServerError, match="cannot be mended: "):
            server.mend()
        (tmp_path / "had").rmdir()
        assert server.mend()
        assert server.exit_reason() is None
        server.flush()


def test_other_process_that_listens_at_the_port_is_found(tmp_path: Path) -> None:
    """The proof that the right process listens is asked for after each restart."""
    second = script(
        tmp_path / "second",
        f'#!/bin/sh\nmkdir {tmp_path}/had && exec memcached "$@"\nmemcached "$@" &\nwait\n',
    )
    with Memcached(binary=second) as server:
        with (
            pytest.raises(ServerError, match="another process than the one that was started lis"),
            server.down(),
        ):
            pass
        assert server.exit_reason() is not None


def test_kernel_that_stops_no_process_is_named(
    server: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = os.kill

    def refuse(pid: int, number: int) -> None:
        if number == signal.SIGSTOP:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        kill(pid, number)

    monkeypatch.setattr("sandbox.system.reaper.os.kill", refuse)
    with pytest.raises(ServerError, match="cannot be stopped by SIGSTOP: Operation not permitted"):
        server.hung().__enter__()
    assert server.outage == ""
    server.flush()


def test_system_that_holds_no_port_has_all_of_it_on_unix_sockets(
    monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setenv("TMPDIR", str(open_folder))
    with Memcached() as server:
        for kind in ("down", "full"):
            with pytest.raises(ServerError, match="let it listen on a Unix socket, by unix_socket"):
                getattr(server, kind)().__enter__()
        with pytest.raises(ServerError, match="no port can be held for it"):
            server.restart()
        with server.hung():
            pass
        server.flush()
    with Memcached(unix_socket=True) as server:
        for kind in KINDS:
            with getattr(server, kind)():
                pass
        server.flush()


def test_record_has_the_outage_and_the_pid(server: Memcached) -> None:
    for kind in KINDS:
        with getattr(server, kind)():
            found = _recorded(server)
            assert found.record.outage == kind
            assert found.record.address == server.address
            assert found.kill() == f"it is {kind}, in an outage that was asked for: end that first"
        found = _recorded(server)
        assert (found.record.outage, found.record.server.pid) == ("", server.pid)
        assert found.record.server.is_running()


@pytest.mark.parametrize("kind", ["down", "full"])
def test_server_that_hangs_by_itself_cannot_be_broken(
    server: Memcached, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.server.outages.ANSWER_TIMEOUT", 0.1)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(ServerError, match="does not answer: timed out"):
        getattr(server, kind)().__enter__()
    assert server.outage == _recorded(server).record.outage == ""
    os.kill(server.pid, signal.SIGCONT)
    server.flush()


def _recorded(server: Memcached) -> inventory.RunningServer:
    servers, _ = inventory.servers()
    (found,) = (each for each in servers if each.directory.path == server.directory)
    return found


def test_sandbox_breaks_all_of_its_servers_or_one() -> None:
    with Sandbox() as box:
        first, second = box.resolve(["a:1", "b:1"]).values()
        with box.down():
            assert [server.outage for server in box.servers] == ["down", "down"]
        with box.full():
            assert [server.outage for server in box.servers] == ["full", "full"]
        with box.hung():
            assert [server.outage for server in box.servers] == ["hung", "hung"]
        box.restart()
        box.flush()
        one, other = box.servers
        with one.down():
            other.flush()
            # One of them is down already: the others are mended.
            with pytest.raises(ServerError, match="is down already"), box.hung():
                pass
            assert other.outage == ""
            other.flush()
        assert [server.address for server in box.servers] == [first, second]


def test_counting_across_a_restart_is_an_error(server: Memcached) -> None:
    with pytest.raises(ServerError, match="was started anew while its operations were being"):
        with server.counting():
            server.restart()
    with server.counting() as counts, server.hung():
        pass
    assert counts.gets == 0


def test_restarted_server_is_seen_at_rest_by_its_threads() -> None:
    """Of several threads none but the kernel tells when they are at rest."""
    with Memcached(threads=4) as server:
        for _ in range(2):
            with server.counting():
                pass
            with server._at_rest() as (_, problem):
                assert problem == ""
            process = server._pid_and_threads
            assert process == (server.pid, 4)
            server.restart()


def test_trace_goes_on_across_restarts(server: Memcached, client: pymemcache.Client) -> None:
    with server.trace() as operations:
        client.get("key")
        with server.down():
            pass
        with closing(server.client()) as another:
            another.get("key")
            with server.hung():
                pass
            another.set("other", "x", noreply=False)
    assert [*map(str, operations)] == ["get key hit", "get key miss", STORED]
    assert server.stats("settings")["verbosity"] == "0"
