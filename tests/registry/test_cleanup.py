"""Stale servers, whose owner and reaper were killed: the next start removes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.registry.directories import ServerDirectory
from sandbox.registry.run_directory import run_directory
from sandbox.system.processes import Identity

from ..conftest import Run
from ..helpers.owners import Owner
from ..helpers.processes import eventually, is_running, pid_in, script, wait_until_gone
from ..helpers.server_directories import server_directory

pytestmark = pytest.mark.whole_machine


class Orphan:
    """A server whose owner and reaper were killed, reaper first."""

    def __init__(self) -> None:
        with Owner() as owner:
            self.pid, self.directory = owner.server_pid, owner.directory
            owner.kill_reaper()
        assert is_running(self.pid)

    @property
    def record(self) -> Path:
        return self.directory / "record"


@pytest.fixture
def orphan(run_folder: Path) -> Iterator[Orphan]:
    orphan = Orphan()
    yield orphan
    if is_running(orphan.pid):
        os.kill(orphan.pid, signal.SIGKILL)
        wait_until_gone(orphan.pid)
    with Memcached():
        assert not orphan.directory.exists()


def test_next_start_removes_a_stale_server(orphan: Orphan) -> None:
    with Memcached() as server:
        wait_until_gone(orphan.pid)
        assert not orphan.directory.exists()
        server.flush()


def test_stop_stale_removes_a_stale_server(run: Run, orphan: Orphan) -> None:
    result = run("sandbox", "stop", "--stale")
    assert result.stderr.startswith("sandbox: removed what 1 killed server had left in /")
    assert (result.returncode, result.stdout) == (0, "")
    wait_until_gone(orphan.pid)
    assert not orphan.directory.exists()


def test_next_start_removes_the_directory_of_a_dead_server(orphan: Orphan) -> None:
    os.kill(orphan.pid, signal.SIGKILL)
    wait_until_gone(orphan.pid)
    with Memcached():
        assert not orphan.directory.exists()


def test_process_with_a_reused_pid_is_not_killed(orphan: Orphan) -> None:
    """Another process has the pid of the server, but was created at another time."""
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as other:
        os.kill(orphan.pid, signal.SIGKILL)
        wait_until_gone(orphan.pid)
        server = server_directory(orphan.directory).read_record().server
        text = orphan.record.read_text()
        this, another = f"{server.pid} {server.started}", f"{other.pid} {server.started}"
        assert this in text
        orphan.record.write_text(text.replace(this, another))
        with Memcached():
            assert not orphan.directory.exists()
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "has a record that is none of memcached-sandbox"),
        ("memcached-sandbox 4\n", "has no complete record"),
        ("memcached-sandbox 4\n12 17", "has a record that was written only half, or changed"),
        ("memcached-sandbox 1\n{}", "has the record of another version of memcached-sandbox"),
    ],
)
def test_server_with_an_unreadable_record_is_left_and_reported(
    run: Run, orphan: Orphan, content: str, problem: str
) -> None:
    """A start leaves the server, and `sandbox stop --stale` reports it."""
    orphan.record.write_text(content)
    with Memcached():
        assert is_running(orphan.pid)
    assert orphan.directory.exists()
    result = run("sandbox", "stop", "--stale")
    assert result.returncode == 125
    assert f"{orphan.directory} was left with a process that cannot be ended: " in result.stderr
    assert f"the directory {problem}; find it with 'fuser " in result.stderr
    assert is_running(orphan.pid)


@pytest.mark.parametrize(
    "numbers",
    [
        "{0} {1} {0} {1} 64",
        "0 1 {0} {1} 64 x up",
        "1 1 -{0} {1} 64 x up",
        "1 1 99999999999999999999 {1} 64 x up",
        "1 1 {0} nonsense 64 x up",
        "1 1 {0} 1.5 64 x up",
        "1 1 {0} inf 64 x up",
        "1 1 {0} -7 64 x up",
        "1 1 {0} {1} 999999999999999999999999 x up",
    ],
)
def test_record_with_numbers_out_of_range_kills_nothing(
    run: Run, orphan: Orphan, numbers: str
) -> None:
    server = server_directory(orphan.directory).read_record().server
    line = numbers.format(server.pid, server.started)
    orphan.record.write_text(f"memcached-sandbox 4\n{line}\n\n127.0.0.1:1\n")
    result = run("sandbox", "stop", "--stale")
    assert result.returncode == 125
    assert "written only half, or changed; find it with 'fuser " in result.stderr
    assert "Traceback" not in result.stderr
    assert is_running(orphan.pid)


def test_dead_server_with_half_a_record_is_removed(orphan: Orphan) -> None:
    orphan.record.write_text("memcached-sand")
    os.kill(orphan.pid, signal.SIGKILL)
    wait_until_gone(orphan.pid)
    with Memcached():
        assert not orphan.directory.exists()


def test_directory_that_is_being_made_is_not_removed(run_folder: Path) -> None:
    directory = ServerDirectory.create(None)
    with Memcached():
        assert os.path.exists(directory.fifo)
    directory.close_fds()
    with Memcached():
        assert not os.path.exists(directory.path)


def test_directory_of_an_owner_killed_before_its_reaper_is_removed(
    python: Run, run_folder: Path
) -> None:
    result = python(
        "import os\n"
        "from sandbox import Memcached\n"
        "os.posix_spawn = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "Memcached().start()\n"
    )
    assert result.returncode == -signal.SIGKILL
    assert len(list(Path(run_directory()).iterdir())) == 1
    with Memcached():
        assert len(list(Path(run_directory()).iterdir())) == 1
    assert list(run_folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has open")
def test_process_of_a_forged_record_is_not_killed(run: Run, orphan: Orphan) -> None:
    """Start, boot and namespace can be guessed; the server has the FIFO of its directory open."""
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as victim:
        text = orphan.record.read_text()
        server = server_directory(orphan.directory).read_record().server
        forged = Identity.of(victim.pid)
        this, another = f"{server.pid} {server.started}", f"{forged.pid} {forged.started}"
        orphan.record.write_text(text.replace(this, another))
        result = run("sandbox", "stop", "--stale")
        reason = f"nothing proves that process {victim.pid} is the one in its record; find it with"
        assert f"{orphan.directory} was left with a process that cannot be" in result.stderr
        assert reason in result.stderr
        assert victim.poll() is None
        victim.kill()


def test_children_of_a_stale_server_are_killed(run_folder: Path, tmp_path: Path) -> None:
    wrapper = script(
        tmp_path / "wrapper",
        f'#!/bin/sh\nsleep 1000 & echo $! >{tmp_path}/pid\nexec memcached "$@"\n',
    )
    with Owner(env={**os.environ, "MEMCACHED_SANDBOX_BINARY": str(wrapper)}) as owner:
        owner.kill_reaper()
    with Memcached():
        wait_until_gone(owner.server_pid, pid_in(tmp_path / "pid"))
        assert not owner.directory.exists()


def test_server_of_a_living_owner_is_not_removed(run_folder: Path) -> None:
    with Owner() as owner:
        for _ in range(20):
            with Memcached():
                pass
        assert is_running(owner.server_pid)
    eventually(lambda: list(run_folder.iterdir()) == [])
