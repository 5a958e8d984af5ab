"""Servers that die, hang, or are no memcached: what the next use of them says."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from sandbox import Memcached, ServerError, StartError

from ..conftest import Run
from ..helpers.processes import eventually, script


def test_killed_server_tells_how_it_died_at_the_next_use() -> None:
    with Memcached() as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"was killed by signal 9 \(Killed\)"):
            server.flush()
        assert server.death() == "was killed by signal 9 (Killed)"


def test_death_of_a_server_sends_sigchld_to_its_owner(python: Run) -> None:
    """An owner that waits for SIGCHLD is woken, and finds the exit reason."""
    result = python(
        "import os, signal\n"
        "from sandbox import Memcached\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})\n"
        "with Memcached() as server:\n"
        "    assert server.exit_reason() is None\n"
        "    os.kill(server.pid, signal.SIGKILL)\n"
        "    signal.sigwait({signal.SIGCHLD})\n"
        "    print(server.exit_reason())\n"
    )
    assert result.stdout == "was killed by signal 9 (Killed)\n", result.stderr


def test_death_of_a_server_is_seen_while_its_child_lives_on(tmp_path: Path) -> None:
    """The child has inherited the FIFO."""
    parent = script(tmp_path / "parent", '#!/bin/sh\nsleep 100 &\nexec memcached "$@"\n')
    with Memcached(binary=parent) as server:
        os.kill(server.pid, signal.SIGKILL)
        eventually(server.exit_reason)
        assert server.exit_reason() == "was killed by signal 9 (Killed)"
    failing = script(tmp_path / "failing", "#!/bin/sh\nsleep 100 &\necho words; exit 7\n")
    with pytest.raises(StartError, match="ended with exit code 7, saying: words before it was re"):
        Memcached(binary=failing, start_timeout=2).start()


def test_port_of_a_dead_server_stays_taken_until_stop() -> None:
    """No program is given the port meanwhile, and none can connect to it."""
    if sys.platform != "linux":
        pytest.skip("only Linux lets a second socket listen at a port that is bound")
    with Memcached() as server:
        assert server.host is not None
        assert server.port is not None
        peer = (server.host, server.port)
        os.kill(server.pid, signal.SIGKILL)
        eventually(server.exit_reason)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(peer)
        with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
            other.bind(peer)


def test_hanging_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.server.ANSWER_TIMEOUT", 0.1)
    with Memcached() as server:
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(ServerError, match="does not answer: timed out"):
            server.flush()


def test_program_that_is_no_memcached_is_an_error_at_every_use(tmp_path: Path) -> None:
    """The program listens at its port, but does not speak memcached's protocol."""
    chatter = script(
        tmp_path / "chatter",
        f"#!{sys.executable}\n"
        "import os, socket, sys\n"
        "port = max(0, int(sys.argv[sys.argv.index('-p') + 1]))\n"
        "listener = socket.create_server(('127.0.0.1', port))\n"
        "with open(os.environ['MEMCACHED_PORT_FILENAME'] + '.lck', 'a') as ready:\n"
        "    print('TCP INET:', listener.getsockname()[1], file=ready)\n"
        "for answer in (b'who are you?\\r\\n', b'y' * 2_000_000, b''):\n"
        "    connection = listener.accept()[0]\n"
        "    connection.recv(100)\n"
        "    try: connection.sendall(answer)\n"
        "    except OSError: pass\n"
        "    connection.close()\n",
    )
    with Memcached(binary=chatter) as server:
        with pytest.raises(ServerError, match="answer: answered 'who are you.' to 'stats'"):
            server.flush()
        with pytest.raises(ServerError, match=r"does not answer: sent no line but 'yyy"):
            server.stats()
        with pytest.raises(ServerError, match="closed the connection|ended with exit code 0"):
            server.stats()
