"""The control socket: each client gets the same answer, and nonsense is an error."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import pytest

from sandbox import RunError, Sandbox, SandboxError
from sandbox.inject import refusals, sources
from sandbox.registry.directories import ControlDirectory
from sandbox.run.control import Control

from ..conftest import Run
from ..helpers.controls import ask, send, servers
from ..helpers.processes import eventually
from ..helpers.rogues import slowly


def test_first_address_gets_the_server_that_runs_already(control: Control) -> None:
    (ahead,) = control._sandbox.servers
    assert ask(control, "a:1") == [ahead.address]
    assert servers(control) == 1


def test_ten_clients_at_once_get_the_same_answer(control: Control) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(control, "a:1", "b:1", "c:1"), range(10)))
    assert len(set(map(tuple, answers))) == 1
    assert len(set(answers[0])) == servers(control) == 3


def test_workers_never_share_a_server(control: Control) -> None:
    names = ["", "1", "2", "3"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: ask(control, "a:1", "b:1", worker=name), names))
    assert len({address for answer in answers for address in answer}) == servers(control) == 8


def test_sandbox_address_is_kept_for_its_worker_and_mapped_for_another(control: Control) -> None:
    a, b = ask(control, "a:1", "b:1")
    assert ask(control, a, b) == [a, b]
    worker_a, worker_b = ask(control, a, b, worker="w")
    assert ask(control, "a:1", "b:1", worker_a, worker="w") == [worker_a, worker_b, worker_a]
    assert servers(control) == 4


def test_address_that_the_command_was_given_is_kept(control: Control) -> None:
    (ahead,) = control._sandbox.servers
    assert ask(control, ahead.address) == [ahead.address]
    assert ask(control, "a:1") != [ahead.address]


def test_server_that_cannot_be_started_is_an_error(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(control, "a:1")
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", "/no/memcached")
    answer = send(control, b'{"resolve": ["b:1"]}\n')
    assert "/no/memcached' does not exist" in answer["error"]
    monkeypatch.delenv("MEMCACHED_SANDBOX_BINARY")
    assert len(ask(control, "b:1")) == 1


def test_refusals_are_kept(control: Control) -> None:
    refused = {"address": "a:1", "alias": "default", "at": "file.py:5", "kind": "main"}
    assert send(control, json.dumps({"refused": refused}).encode() + b"\n") == {}
    assert control.refusals == [refusals.Refusal("a:1", "default", "file.py:5")]


def test_request_without_an_end_is_answered_at_the_limit(control: Control) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(control.path)
        try:
            connection.sendall(b"x" * 1_100_000)  # and the connection stays open
        except OSError:
            pass  # The owner has read enough.
        assert b"not a line of JSON" in connection.recv(1000)


def test_client_without_a_request_is_dropped(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.run.control.REQUEST_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(control.path)
        assert connection.recv(1000) == b""


@pytest.mark.timeout(30)
def test_client_that_drips_a_request_is_dropped(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, but not the line."""
    monkeypatch.setattr("sandbox.run.control.REQUEST_TIMEOUT", 0.3)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.05)
        connection.connect(control.path)
        with suppress(BrokenPipeError, ConnectionResetError):  # It is dropped.
            while True:
                connection.sendall(b"x")
                with suppress(TimeoutError):
                    assert connection.recv(1000) == b""


@pytest.mark.timeout(30)
def test_owner_that_drips_its_answer_does_not_hold_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "ANSWER_TIMEOUT", 0.3)

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            for piece in slowly(repeat(b"x")):
                connection.sendall(piece)

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        pool.submit(drip)
        with pytest.raises(RunError, match="the run's sandbox does not answer: timed out"):
            sources.SocketSource(str(tmp_path / "control")).resolve(["a:1"], "")


def test_request_is_answered_at_the_end_of_its_line(control: Control) -> None:
    assert send(control, b'{"resolve": [], "worker": ""}\nmore') == {"addresses": {}}


def test_control_path_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="AF_UNIX path too long; point TMPDIR to a folder with"):
        Control(Sandbox(), str(tmp_path / ("x" * 100)))


def test_tmpdir_too_long_for_a_socket_is_passed_over(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    result = run("sandbox", "exec", "--unix", "-v", "true", TMPDIR=str(folder))
    assert result.returncode == 0
    assert re.search(" memcached at unix:(/tmp|/dev/shm)/memcached-sandbox-", result.stderr)


def test_control_socket_lies_in_a_directory_for_its_owner_alone(run: Run) -> None:
    result = run(
        "sandbox", "exec", "-q", "--", "sh", "-c", 'stat -c %a "${MEMCACHED_SANDBOX_CONTROL%/*}"'
    )
    assert result.stdout == "700\n"


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "broken"), ValueError("a bug")])
def test_failure_of_the_owner_is_answered_and_harms_no_other_client(
    control: Control, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Sandbox, "resolve", fail)
        answer = send(control, b'{"resolve": ["a:1"]}\n')
    assert answer == {"error": f"the process that owns the sandbox failed: {error!r}"}
    assert len(ask(control, "a:1")) == 1


def test_file_of_outages_is_removed_with_the_run() -> None:
    assert sources.BROKEN == ControlDirectory.BROKEN


def outage_of(control: Control, address: str) -> str:
    return sources.SocketSource(control.path).outage(address)


@pytest.mark.parametrize("kind", ["down", "hung", "full"])
def test_owner_breaks_a_server_for_a_client_until_it_says_so(control: Control, kind: str) -> None:
    (server,) = control._sandbox.servers
    source = sources.SocketSource(control.path)
    assert not source.mend([server.address])
    end = source.begin_outage(server.address, kind)
    assert server.outage == source.outage(server.address) == kind
    with pytest.raises(RunError, match=f"is {kind} already: end that outage first"):
        source.begin_outage(server.address, "hung")
    with pytest.raises(RunError, match=f"is {kind} already"):
        source.restart(server.address)
    assert end()
    assert server.outage == source.outage(server.address) == ""
    server.flush()


def test_server_is_mended_when_its_client_has_gone(control: Control) -> None:
    (server,) = control._sandbox.servers
    end = sources.SocketSource(control.path).begin_outage(server.address, "hung")
    with socket.socket(fileno=os.dup(end.fileno())) as other:
        other.shutdown(socket.SHUT_RDWR)  # as the kernel does when the process ends
    eventually(lambda: not server.outage)
    eventually(lambda: not outage_of(control, server.address))
    server.flush()
    with pytest.raises(RunError, match="does not answer"):
        end()


def test_flush_of_any_process_mends_its_own_servers(control: Control) -> None:
    a, b = ask(control, "a:1", "b:1")
    one, other = sources.SocketSource(control.path), sources.SocketSource(control.path)
    ends = [one.begin_outage(address, "down") for address in (a, b)]
    assert other.mend([a])
    assert [outage_of(control, address) for address in (a, b)] == ["", "down"]
    assert not other.mend([a])  # Nothing has happened since.
    assert [end() for end in ends] == [False, True]
    assert other.mend([a])  # Its clients may be connected to what was killed.
    assert not other.mend([a])
    one.restart(a)
    assert other.mend([a])


def test_outage_of_no_server_is_an_error(control: Control) -> None:
    source = sources.SocketSource(control.path)
    for act in (lambda: source.begin_outage("a:1", "down"), lambda: source.restart("a:1")):
        with pytest.raises(RunError, match="at a:1 cannot be broken: this run did not start it"):
            act()
    answer = send(control, b'{"outage": "up", "server": "a:1"}\n')
    assert "asks for nothing that is known" in answer["error"]


def test_server_that_cannot_be_started_again_is_told_to_its_client(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server,) = control._sandbox.servers
    end = sources.SocketSource(control.path).begin_outage(server.address, "down")
    monkeypatch.setattr(server._process, "command", ["/nowhere/memcached"])
    with pytest.raises(RunError, match="cannot be mended: .*nowhere"):
        end()
    assert "could not be started again" in str(server.exit_reason())


def test_outage_needs_a_thread_of_the_owner(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    (server,) = control._sandbox.servers
    with pytest.raises(RunError, match="no thread can wait for the end of an outage"):
        sources.SocketSource(control.path).begin_outage(server.address, "down")
    assert server.outage == ""
