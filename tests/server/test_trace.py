"""Traces: what they list, how they end, and what they leave behind."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandbox import Memcached, Server, ServerError
from sandbox.inject import rest
from sandbox.server.operations import Operation

from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import eventually, script
from ..helpers.projects import MakeProject, Project, pytest_command

if TYPE_CHECKING:
    import pymemcache


@pytest.fixture
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture
def client(server: Memcached) -> Iterator[pymemcache.Client]:
    with closing(server.client()) as client:
        yield client


def lines(operations: list[Operation]) -> list[str]:
    return [*map(str, operations)]


def fail_after_get(client: pymemcache.Client) -> None:
    client.get("a")
    raise KeyError


def test_trace_lists_what_clients_do_while_it_lasts(
    server: Memcached, client: pymemcache.Client
) -> None:
    client.set("before", 1)  # not answered: it may be executed only now
    with server.trace() as operations:
        client.get("a")
        assert operations == []
        operations.sync()
        assert lines(operations) == ["get a miss"]
        client.set("a", "12", expire=60)
        client.get_many(["a", "b"])
        with closing(server.client()) as other:
            other.delete("a")
        client.flush_all()
    client.get("after")
    assert lines(operations) == [
        *("get a miss", "set a 60 s, 2 bytes", "get a hit", "get b miss"),
        "delete a hit" if operations[4].found else "delete a",  # 1.6.45 does not tell
        "flush",
    ]
    assert [operation.client for operation in operations] == [1, 1, 1, 1, 2, 1]
    assert operations[1] == Operation("set", "a", "a", None, 60, 2, 1)
    with pytest.raises(ServerError, match=r"this trace has ended"):
        operations.sync()


def test_trace_has_nothing_that_this_package_asks(server: Memcached) -> None:
    server.flush()
    with server.trace() as operations, server.trace():
        server.flush()
        server.stats()
        server.items()
        with server.counting():
            server.client().close()
    assert operations == []


def test_traces_may_nest(server: Memcached, client: pymemcache.Client) -> None:
    with server.trace() as outer:
        client.get("a")
        with server.trace() as inner:
            client.get("b")
            outer.sync()
            assert lines(inner) == ["get b miss"]
            client.get("c")
        client.get("d")
    assert lines(inner) == ["get b miss", "get c miss"]
    assert lines(outer) == ["get a miss", "get b miss", "get c miss", "get d miss"]


def test_trace_leaves_no_log_and_no_logging(server: Memcached, client: pymemcache.Client) -> None:
    output = server._running().directory.output
    with pytest.raises(KeyError), server.trace() as operations:
        fail_after_get(client)
    client.get("b")
    assert lines(operations) == ["get a miss"]
    assert os.path.getsize(output) == 0


def test_trace_of_a_server_that_dies_has_what_it_did(
    server: Memcached, client: pymemcache.Client
) -> None:
    with server.trace() as operations:
        client.get("a")
        os.kill(server.pid, signal.SIGKILL)
        eventually(server.exit_reason)
    assert lines(operations) == ["get a miss"]
    with pytest.raises(ServerError, match=r"was killed by signal 9 \(Killed\)$"), server.trace():
        raise AssertionError


def test_trace_of_a_server_that_is_stopped_has_what_it_did(server: Memcached) -> None:
    with server.trace() as operations:
        with closing(server.client()) as client:
            client.get("a")
        operations.sync()
        server.stop()
    assert lines(operations) == ["get a miss"]
    with pytest.raises(ServerError, match=r"this server does not run"), server.trace():
        raise AssertionError


def test_trace_of_a_server_that_is_started_anew_fails(server: Memcached) -> None:
    with (
        pytest.raises(ServerError, match=r"was started anew while it was traced$"),
        server.trace() as operations,
    ):
        use_and_restart(server)
    assert lines(operations) == ["get a miss"]


def use_and_restart(server: Memcached) -> None:
    with closing(server.client()) as client:
        client.get("a")
    server.stop()
    server.start()


def test_fork_neither_ends_a_trace_nor_reads_it(
    server: Memcached, client: pymemcache.Client
) -> None:
    with server.trace() as operations:
        client.get("a")
        if not (child := os.fork()):
            status = 1
            try:
                with pytest.raises(ServerError, match="belongs to the parent of this process"):
                    operations.sync()
                with closing(server.client()) as own, server.trace() as traced:
                    own.get("b")
                status = lines(traced) != ["get b miss"]
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.get("c")
    assert lines(operations) == ["get a miss", "get b miss", "get c miss"]


def test_copies_of_operations_are_lists(server: Memcached, client: pymemcache.Client) -> None:
    with server.trace() as operations:
        client.get("a")
        client.get("b")
    for copied in (copy.deepcopy(operations), pickle.loads(pickle.dumps(operations))):
        assert type(copied) is list
        assert copied == operations


def test_client_that_switches_logging_off_is_reported(
    server: Memcached, client: pymemcache.Client
) -> None:
    with server.trace() as operations:
        client.get("a")
        client.raw_command("verbosity 0")
        match = r"has sent 'verbosity 0' to memcached at"
        with pytest.warns(RuntimeWarning, match=match) as warned:
            operations.sync()
        assert [warning.filename for warning in warned] == [__file__]
        client.get("b")
    assert lines(operations) == ["get a miss", "get b miss"]


def test_server_that_hides_its_output_cannot_be_traced(tmp_path: os.PathLike[str]) -> None:
    quiet = script(tmp_path / "quiet", '#!/bin/sh\nexec memcached "$@" 2>/dev/null\n')  # type: ignore[operator]
    with (
        Memcached(binary=quiet) as server,
        pytest.raises(ServerError, match=r"cannot be traced: it does not print into /"),
        server.trace(),
    ):
        raise AssertionError


def test_server_of_others_cannot_be_traced(main_memcached: MainMemcached) -> None:
    server = Server(main_memcached.address)
    with pytest.raises(ServerError, match=r"cannot be traced: this run did not start it$"):
        with server.trace():
            raise AssertionError


TRACES = """
import os, sys
from sandbox import Server
from django.conf import settings
with Server(settings.CACHES["default"]["LOCATION"]).trace() as operations:
    print("traces", flush=True)
    sys.stdin.readline()
print(*operations, sep="; ", flush=True)
"""

TRACED_BY_SEVERAL = f"""
import os, subprocess, sys
from django.core.cache import cache
from sandbox import Server

SCRIPT = {TRACES!r}

def trace():
    pipe = subprocess.PIPE
    tracer = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=pipe, stdout=pipe, text=True)
    assert tracer.stdout.readline() == "traces\\n"
    return tracer

def ended(tracer):
    output, _ = tracer.communicate("\\n")
    assert tracer.returncode == 0
    return output.rstrip()

server = Server(cache._servers[0])
first, second, killed = trace(), trace(), trace()
killed.kill(); killed.communicate()
cache.get("a")
assert ended(first) == "get :1:a miss"
with server.trace() as operations:
    cache.get("b")
assert [operation.key for operation in operations] == [":1:b"]
assert [operation.name for operation in operations] == ["b"]
cache.get("c")
assert ended(second) == "get :1:a miss; get :1:b miss; get :1:c miss"
cache.get("d")
assert os.path.getsize(server._log_path()) == 0
"""


def test_processes_of_a_run_trace_the_same_server(plain: Project) -> None:
    """One of them is killed. The last one switches logging off."""
    result = plain.sandboxed(
        "--", sys.executable, "-c", TRACED_BY_SEVERAL, DJANGO_SETTINGS_MODULE="settings"
    )
    assert result.returncode == 0, result.stderr


CUT_BETWEEN_TESTS = """
import os
import pytest
from django.core.cache import cache

@pytest.fixture(scope="session")
def traced(memcached):
    with memcached.trace() as operations:
        yield operations
    assert [operation.name for operation in operations] == ["key"] * 6000

@pytest.mark.parametrize("number", range(6))
def test_it(traced, memcached, number):
    file = os.stat(memcached._log_path())
    assert file.st_size >= 20_000 * number
    assert file.st_blocks * 512 < 20_000
    for _ in range(1000):
        cache.get("key")
"""


@pytest.mark.parametrize("under_exec", [True, False])
def test_log_is_cut_between_tests(make_project: MakeProject, under_exec: bool) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells which processes have read what")
    project = make_project("127.0.0.1:11211")
    project.write("test_it.py", CUT_BETWEEN_TESTS)
    command = pytest_command("--memcached-sandbox")
    result = project.sandboxed("--", *command) if under_exec else project.pytest(*command[3:])
    assert "6 passed" in result.stdout, result.stdout + result.stderr


def test_trace_goes_on_after_a_test_has_closed_all_descriptors(plain: Project) -> None:
    """Another file may have the number of the log by then: it is neither read nor cut."""
    script = (
        "import os\n"
        "from sandbox import Memcached\n"
        "from sandbox.inject import run\n"
        "with Memcached() as server, server.trace() as operations:\n"
        "    server.client().get('a')\n"
        "    own = [descriptor for descriptor in range(3, 99)\n"
        "           if os.path.realpath(f'/proc/self/fd/{descriptor}').endswith('/output')]\n"
        "    for descriptor in own: os.close(descriptor)\n"
        "    files = [open('file', 'w+b') for _ in range(9)]\n"
        "    assert files[0].fileno() in own\n"
        "    files[0].write(b'x' * 100_000); files[0].flush()\n"
        "    for callback in run.after_flush: callback()\n"
        "    server.client().get('b')\n"
        "assert [str(operation) for operation in operations] == ['get a miss', 'get b miss']\n"
        "assert os.stat('file').st_blocks >= 195\n"
        "assert files[0].seek(0) == 0 and files[0].read() == b'x' * 100_000\n"
    )
    if sys.platform != "linux":
        pytest.skip("only Linux shows open files in /proc")
    result = plain._run(sys.executable, "-W", "ignore", "-c", script, cwd=plain.folder)
    assert result.returncode == 0, result.stderr


def test_lines_that_threads_have_mixed_are_reported() -> None:
    with Memcached(threads=4) as server, server.trace() as operations:
        for number in range(8):  # each has another thread
            with closing(server.client()) as client:
                client.set(f"key{number}", 1)
                client.get(f"key{number}")
        operations.sync()
        assert len(operations) == 16
        # Two threads have written at the same time.
        with open(server._log_path(), "ab") as log:
            log.write(b"<98 get a\n>98 sending key <99 get b\na\n>98 END\n")
        with pytest.warns(
            RuntimeWarning, match=r"^the threads of .* have mixed 2 lines of its log:"
        ):
            operations.sync()


def test_client_that_writes_on_is_reported(
    server: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real one would have the log grow by a million lines in the meantime.
    monkeypatch.setattr(rest.WatchedServer, "comes_to_rest", lambda _: False)
    with pytest.warns(RuntimeWarning, match="does not come to rest: a client writes on") as warned:
        with server.trace():
            pass
    assert [warning.filename for warning in warned] == [__file__]
