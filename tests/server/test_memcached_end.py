"""The end of a server: by stop(), by its with block, or with the last reference to it."""

from __future__ import annotations

import gc
import threading

import psutil
import pytest

from sandbox import Memcached, ServerError

from ..conftest import Run


def test_stop_ends_the_process_before_it_returns() -> None:
    server = Memcached()
    server.start()
    pid = server.pid
    server.stop()
    assert not psutil.pid_exists(pid)


def test_server_can_be_stopped_twice_and_started_again() -> None:
    server = Memcached()
    server.stop()
    for _ in range(2):
        server.start()
        server.flush()
        server.stop()
        server.stop()


def test_server_started_twice_is_an_error() -> None:
    with Memcached() as server:
        with pytest.raises(ServerError, match="started already"):
            server.start()
        server.flush()


def test_stopped_server_raises_at_every_use() -> None:
    with Memcached() as server:
        pass
    for use in (
        lambda: server.address,
        lambda: server.port,
        lambda: server.pid,
        server.client,
        server.flush,
        server.stats,
    ):
        with pytest.raises(ServerError, match="does not run"):
            use()
    assert repr(server) == "<Memcached not running>"


def test_error_in_the_with_block_ends_the_server() -> None:
    server = Memcached()
    with pytest.raises(KeyboardInterrupt), server:  # noqa: PT012
        pid = server.pid
        raise KeyboardInterrupt
    assert not psutil.pid_exists(pid)


def test_server_without_a_reference_is_ended() -> None:
    server = Memcached()
    server.start()
    pid = server.pid
    del server
    gc.collect()
    assert not psutil.pid_exists(pid)


def test_server_outlives_the_thread_that_started_it() -> None:
    server = Memcached()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    server.flush()
    server.stop()


def test_server_runs_and_ends_while_sigchld_is_ignored(python: Run) -> None:
    """The kernel waits for the children then, and the owner cannot."""
    result = python(
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from sandbox import Memcached\n"
        "with Memcached() as server: server.flush()\n"
        "print(server)"
    )
    assert (result.stdout, result.stderr) == ("<Memcached not running>\n", "")


def test_server_runs_and_ends_without_standard_streams(python: Run) -> None:
    result = python(
        "import os, sys\n"
        "from sandbox import Memcached\n"
        "saved = os.dup(1)\n"
        "os.closerange(0, 3)\n"
        "with Memcached() as server: server.flush()\n"
        "os.write(saved, b'well')"
    )
    assert result.stdout == "well"
