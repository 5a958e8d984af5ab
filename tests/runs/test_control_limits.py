"""The control socket with many clients at once, and without free descriptors or threads."""

from __future__ import annotations

import resource
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sandbox import RunError
from sandbox.inject import sources
from sandbox.run.control import Control

from ..conftest import Run
from ..helpers.controls import connect, servers, serving
from ..helpers.users import ANOTHER_USER, as_root, run_as


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that the control sockets of a test await before they accept clients."""
    event = threading.Event()
    accept = Control._accept

    def held(control: Control) -> None:
        event.wait()
        accept(control)

    monkeypatch.setattr(Control, "_accept", held)
    return event


RESOLVE = b'{"resolve": ["a:1"]}\n'


def test_five_hundred_clients_at_once_are_answered(
    accepting: threading.Event, control: Control
) -> None:
    limit = Path("/proc/sys/net/core/somaxconn")
    if not limit.exists() or int(limit.read_text()) < 500:
        pytest.skip("net.core.somaxconn allows fewer clients to wait, or is not known")
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(control)) for _ in range(500)]
        for client in clients:
            client.sendall(RESOLVE)
        accepting.set()
        assert len({client.recv(1000) for client in clients}) == 1
    assert servers(control) == 1


def fill_queue(control: Control, stack: ExitStack) -> None:
    with suppress(BlockingIOError, ConnectionRefusedError):  # the latter on macOS
        while True:
            stack.enter_context(connect(control))


def test_client_tries_again_while_the_queue_is_full(
    accepting: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.run.control.BACKLOG", 5)
    pause = time.sleep

    def accept_meanwhile(seconds: float) -> None:
        accepting.set()
        pause(seconds)

    with serving(tmp_path / "control") as control, ExitStack() as stack:
        fill_queue(control, stack)
        monkeypatch.setattr(time, "sleep", accept_meanwhile)
        assert list(sources.SocketSource(control.path).resolve(["a:1"], "")) == ["a:1"]


def test_refusal_means_a_full_queue_only_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS refuses a client while the queue is full; Linux, when the owner has ended."""

    class Refusing:
        attempts = 0

        def connect(self, _: str) -> None:
            self.attempts += 1
            if self.attempts < 3:
                raise ConnectionRefusedError

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("sys.platform", "darwin")
    macos, linux = Refusing(), Refusing()
    sources._connect(macos, "control")  # type: ignore[arg-type]
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConnectionRefusedError):
        sources._connect(linux, "control")  # type: ignore[arg-type]
    assert (macos.attempts, linux.attempts) == (3, 1)


def test_queue_that_stays_full_is_an_error(
    accepting: threading.Event,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sandbox.run.control.BACKLOG", 5)
    pauses: list[float] = []
    with serving(tmp_path / "control") as control, ExitStack() as stack:
        fill_queue(control, stack)
        monkeypatch.setattr(time, "sleep", pauses.append)
        with pytest.raises(RunError, match="the run's sandbox does not answer: timed out"):
            sources.SocketSource(control.path).resolve(["a:1"], "")
        monkeypatch.undo()
        accepting.set()
    assert 60 < sum(pauses) < 61
    assert max(pauses) == 0.1
    assert capfd.readouterr().err == "sandbox: the run's sandbox does not answer: timed out\n"


def test_client_is_served_once_there_is_a_free_descriptor(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one of these clients had a descriptor kept for it. What waits is not lost."""
    failed = threading.Event()
    wait = control._stopped.wait

    def recorded(seconds: float) -> bool:
        failed.set()
        return wait(seconds)

    monkeypatch.setattr(control._stopped, "wait", recorded)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for client in clients:
                client.connect(control.path)
                client.sendall(RESOLVE)
            failed.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [b"addresses" in client.recv(1000) for client in clients] == [True] * 3


EACH_NUMBER_OF_DESCRIPTORS = """
import os, resource, socket
from sandbox import Sandbox, SandboxError
from sandbox.run.control import Control

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
sandbox = Sandbox()
sandbox.resolve(["a:1"])
for free in range(5):
    path = f"control{free}"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        taken = [os.dup(0) for _ in range(20)]  # and so all that are below
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + free, hard))
        try:
            control = Control(sandbox, path)
            client.connect(path)
            client.sendall(b'{"resolve": ["a:1"]}\\n')
            print(client.recv(1000))
            control.stop()
        except SandboxError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
sandbox.stop()
"""


def test_control_socket_without_a_descriptor_for_a_client_is_an_error(python: Run) -> None:
    result = python(EACH_NUMBER_OF_DESCRIPTORS)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "the control socket cannot be made at control0",
        "the control socket cannot be made at control1",
        *['b\'{"addresses"'] * 3,
    ]
    assert "no free file descriptor: close files that it has open, or raise 'ulimit -n'" in lines[0]


WITHOUT_THREADS = """
import os, resource, socket
from sandbox import Sandbox, SandboxError
from sandbox.run.control import Control

def client():
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect("control")
    return connection

hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
with Sandbox() as sandbox:
    sandbox.resolve(["a:1"])
    control = Control(sandbox, "control")
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    silent = client()
    for worker in b"", b"w":
        with client() as connection:
            connection.sendall(b'{"resolve": ["a:1"], "worker": "%s"}\\n' % worker)
            print(connection.recv(1000).decode().strip())
    print(silent.recv(1000))
    control.stop()
    try:
        Control(sandbox, "control2")
    except SandboxError as error:
        print(error)
os.unlink("control")
os.unlink("control2")
"""


@as_root
def test_clients_are_served_in_turn_when_no_thread_can_be_started() -> None:
    """Root has no such limit, so another user serves. A silent client does not hold the others."""
    result = run_as(ANOTHER_USER, WITHOUT_THREADS)
    assert result.stderr == ""
    known, unknown, silent, start = result.stdout.splitlines()
    assert known.startswith('{"addresses"')
    assert "no further process can be started: end some, or raise 'ulimit -u'" in unknown
    assert silent == "b''"
    assert start == (
        "the control socket cannot be served: can't start new thread: "
        "end some programs, or raise 'ulimit -u'"
    )
