"""Each connect of a supervised command is answered, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from sandbox.system import seccomp
from sandbox.system.connects import Connect
from sandbox.system.supervisor import Supervisor

from ..conftest import Run
from ..helpers.processes import eventually, wait_until_gone

pytestmark = pytest.mark.skipif(
    seccomp.reason_of_absence() is not None, reason="the kernel supervises nothing here"
)

# Connects to a port some times, and prints how often that has worked, and the errors.
CONNECTS = """
import collections, socket, sys
port, count = map(int, sys.argv[1:])
results = collections.Counter()
for _ in range(count):
    with socket.socket() as connection:
        try:
            connection.connect(("127.0.0.1", port))
            results["ok"] += 1
        except OSError as error:
            results[error.errno] += 1
print(*(f"{result} {number}" for result, number in sorted(results.items(), key=str)))
"""


class Policy:
    """Answers as a function says, and keeps what it is told."""

    def __init__(self, decide: Callable[[Connect], object]) -> None:
        self.decide: Callable[[Connect], int] = decide  # type: ignore[assignment]
        self.unseen: list[int] = []
        self.failures: list[str] = []

    def report_unseen(self, connect: Connect) -> None:
        self.unseen.append(connect.pid)

    def report_failure(self, connect: Connect, error: Exception) -> None:
        self.failures.append(repr(error))


@pytest.fixture
def port() -> Iterator[int]:
    """A port that accepts all connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield listener.getsockname()[1]


@contextmanager
def supervised(policy: Policy, *command: object, output: Path) -> Iterator[int]:
    """Start a command whose output goes to a file; yield its pid."""
    supervisor = Supervisor(policy)
    words = [str(word) for word in command]
    to_file = (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT, 0o600)
    start = partial(os.posix_spawnp, words[0], words, os.environ, file_actions=[to_file])
    try:
        yield supervisor.spawn(start)
    finally:
        supervisor.stop()


def connects(policy: Policy, port: int, count: int, folder: Path) -> str:
    """Return what a supervised program prints that connects to a port some times."""
    command = sys.executable, "-I", "-c", CONNECTS, port, count
    with supervised(policy, *command, output=folder / "output") as pid:
        assert os.waitpid(pid, 0) == (pid, 0)
    return (folder / "output").read_text().strip()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_answers_are_what_the_caller_gets(port: int, tmp_path: Path) -> None:
    assert connects(Policy(lambda _: 0), port, 1, tmp_path) == "ok 1"
    policy = Policy(lambda connect: errno.EACCES if connect.port == port else 0)
    assert connects(policy, port, 2, tmp_path) == f"{errno.EACCES} 2"


def test_error_of_the_policy_refuses_and_is_told(port: int, tmp_path: Path) -> None:
    def decide(connect: Connect) -> int:
        raise KeyError("nothing")

    policy = Policy(decide)
    assert connects(policy, port, 2, tmp_path) == f"{errno.ECONNREFUSED} 2"
    assert policy.failures == ["KeyError('nothing')"] * 2


def test_limit_of_this_process_is_waited_for(port: int, tmp_path: Path) -> None:
    attempts = []

    def decide(connect: Connect) -> int:
        attempts.append(connect)
        if len(attempts) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return 0

    policy = Policy(decide)
    assert connects(policy, port, 1, tmp_path) == "ok 1"
    assert (len(attempts), policy.failures) == (3, [])


def test_limit_that_stays_refuses(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.system.supervisor.RETRY_PAUSE", 0)

    def decide(connect: Connect) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    policy = Policy(decide)
    assert connects(policy, port, 1, tmp_path) == f"{errno.ECONNREFUSED} 1"
    assert len(policy.failures) == 1


def test_process_that_may_not_be_looked_at_goes_on_and_is_told(port: int, tmp_path: Path) -> None:
    def decide(connect: Connect) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    policy = Policy(decide)
    assert connects(policy, port, 1, tmp_path) == "ok 1"
    assert len(policy.unseen) == 1


def test_answer_that_takes_long_holds_nobody_else(port: int, tmp_path: Path) -> None:
    """The first caller is answered only when the second one was."""
    second = threading.Event()

    def find() -> int:
        assert second.wait(60)
        return errno.EACCES

    def decide(connect: Connect) -> object:
        if connect.port == port:
            return find
        second.set()
        return 0

    with socket.create_server(("127.0.0.1", 0)) as other:
        script = f"{sys.executable} -I -c '{CONNECTS}'"
        command = f"{script} {port} 1 & {script} {other.getsockname()[1]} 1; wait"
        with supervised(Policy(decide), "sh", "-c", command, output=tmp_path / "output") as pid:
            assert os.waitpid(pid, 0) == (pid, 0)
    lines = (tmp_path / "output").read_text().splitlines()
    assert sorted(lines) == [f"{errno.EACCES} 1", "ok 1"]


def test_answers_that_are_being_found_at_the_end_are_given(port: int, tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def find() -> int:
        begun.set()
        assert ended.wait(60)
        return errno.EACCES

    command = sys.executable, "-I", "-c", CONNECTS, port, 1
    output = tmp_path / "output"
    before = children()
    with supervised(Policy(lambda _: find), *command, output=output):
        assert begun.wait(60)
        threading.Timer(0.01, ended.set).start()
    for child in children() - before:  # the command, and what answers it from now on
        assert os.waitpid(child, 0) == (child, 0)
    assert output.read_text() == f"{errno.EACCES} 1\n"


def test_each_of_thousands_of_connects_is_answered(port: int, tmp_path: Path) -> None:
    program = f"{sys.executable} -I -c '{CONNECTS}' {port} 1000"
    output = tmp_path / "output"
    command = " & ".join([program] * 4)
    policy = Policy(lambda connect: errno.EACCES if connect.port == port else 0)
    with supervised(policy, "sh", "-c", f"{command}; wait", output=output) as pid:
        assert os.waitpid(pid, 0) == (pid, 0)
    assert output.read_text() == f"{errno.EACCES} 1000\n" * 4


def test_callers_that_are_killed_hold_nobody(port: int, tmp_path: Path) -> None:
    """60 processes that connect in a loop are killed at once; the next one is answered."""
    forks = (
        "import os, signal, socket, sys\n"
        "children = []\n"
        "for _ in range(60):\n"
        "    if child := os.fork():\n"
        "        children.append(child)\n"
        "        continue\n"
        "    while True:\n"
        "        with socket.socket() as connection:\n"
        "            connection.connect_ex(('127.0.0.1', int(sys.argv[1])))\n"
        "print('forked', flush=True)\n"
        "for child in children: os.kill(child, signal.SIGKILL)\n"
        "for child in children: os.waitpid(child, 0)\n"
        "with socket.socket() as connection:\n"
        "    print(connection.connect_ex(('127.0.0.1', int(sys.argv[1]))))\n"
    )
    policy = Policy(lambda connect: errno.EACCES if connect.port == port else 0)
    output = tmp_path / "output"
    with supervised(policy, sys.executable, "-I", "-c", forks, port, output=output) as pid:
        assert os.waitpid(pid, 0) == (pid, 0)
    assert output.read_text() == f"forked\n{errno.EACCES}\n"


def test_processes_left_behind_keep_their_network(port: int, tmp_path: Path) -> None:
    """One answers them that holds nothing else, until the last of them has ended."""
    waits = (
        "import os, socket, sys\n"
        "folder, port = sys.argv[1:]\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "with open(f'{folder}/go') as go:\n"
        "    go.read()\n"
        "with socket.create_connection(('127.0.0.1', int(port))):\n"
        "    print('connected', os.getpid(), flush=True)\n"
        "open(f'{folder}/end').read()\n"
    )
    os.mkfifo(tmp_path / "go")
    os.mkfifo(tmp_path / "end")
    before = children()
    policy = Policy(lambda _: errno.EACCES)
    command = sys.executable, "-I", "-c", waits, tmp_path, port
    with supervised(policy, *command, output=tmp_path / "output") as pid:
        assert os.waitpid(pid, 0) == (pid, 0)
    (left,) = children() - before
    try:
        (tmp_path / "go").write_text("go")
        eventually(lambda: (tmp_path / "output").read_text().startswith("connected"))
        answering = psutil.Process(left)
        assert answering.cwd() == "/"
        assert answering.terminal() is None
        assert os.getsid(left) == left
        files = {os.readlink(f"/proc/{left}/fd/{fd}") for fd in os.listdir(f"/proc/{left}/fd")}
        assert files == {os.devnull, "anon_inode:seccomp notify"}
    finally:
        (tmp_path / "end").write_text("end")
        assert os.waitpid(left, 0) == (left, 0)
    wait_until_gone(int((tmp_path / "output").read_text().split()[1]))


def test_end_has_no_effect_twice_even_if_nobody_can_answer_what_is_left(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(Policy(lambda _: 0))
    pid = supervisor.spawn(partial(os.posix_spawnp, "sleep", ["sleep", "600"], os.environ))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        supervisor.stop()
    supervisor.stop()
    assert len(os.listdir("/proc/self/fd")) == len(before) - 2
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sys.platform = 'darwin'", "it needs Linux"),
        ("sys.modules['_ctypes'] = None", "this Python was built without ctypes: "),
        ("sys.maxsize = 2**31 - 1", "it needs a 64-bit Python on x86-64 or arm64, not "),
        ("seccomp.WAIT_KILLABLE_RECV = 1 << 30", "it needs Linux 5.19, and this is "),
        ("seccomp.install()", "another program supervises this process already, such as"),
    ],
)
def test_absence_has_a_reason(python: Run, change: str, reason: str) -> None:
    result = python(
        f"import sys\nfrom sandbox.system import seccomp\n{change}\n"
        "print(seccomp.reason_of_absence())\n"
    )
    assert result.stdout.startswith(reason), result.stderr
