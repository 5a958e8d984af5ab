"""What is left when owner and reaper are killed alike, and who removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox import Memcached
from sandbox.registry.directories import ControlDirectory, ServerDirectory
from sandbox.registry.run_directory import run_directory

from ..conftest import Run
from ..helpers.processes import eventually, is_running, wait_until_gone

pytestmark = pytest.mark.whole_machine

OWNER = """
import sys
from sandbox import Memcached
server = Memcached()
server.start()
print(server.pid, server.directory, flush=True)
sys.stdin.read()
"""


class Orphan:
    """A server whose owner and reaper were killed, reaper first."""

    def __init__(self) -> None:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        self.pid, self.directory = int(pid), Path(directory)
        (reaper,) = (
            child for child in psutil.Process(owner.pid).children() if child.pid != self.pid
        )
        reaper.kill()
        owner.kill()
        owner.communicate()
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


def test_the_next_start_sweeps(orphan: Orphan) -> None:
    with Memcached() as server:
        wait_until_gone(orphan.pid)
        assert not orphan.directory.exists()
        server.flush()


def test_a_reused_pid_is_not_killed(orphan: Orphan) -> None:
    """Another process has the pid of the server by now, created at another time."""
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as other:
        os.kill(orphan.pid, signal.SIGKILL)
        wait_until_gone(orphan.pid)
        created = psutil.Process(other.pid).create_time() - 60
        server = ServerDirectory(str(orphan.directory)).read_record().server
        text = orphan.record.read_text()
        this, another = f"{server.pid} {server.created:.6f}", f"{other.pid} {created:.6f}"
        assert this in text
        orphan.record.write_text(text.replace(this, another))
        with Memcached():
            assert not orphan.directory.exists()
        assert other.poll() is None
        other.kill()


def test_the_pid_of_nobody(orphan: Orphan) -> None:
    os.kill(orphan.pid, signal.SIGKILL)
    wait_until_gone(orphan.pid)
    with Memcached():
        assert not orphan.directory.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "has no record"),
        ("", "has a record that is none of memcached-sandbox"),
        ("memcached-sandbox 2\n12 17", "has a record that was written only half"),
        ("memcached-sandbox 1\n{}", "has the record of another version of memcached-sandbox"),
        ("\0\0\0\0", "has a record that is none of memcached-sandbox"),
    ],
)
def test_a_record_that_says_nothing(
    run: Run, orphan: Orphan, content: str | None, problem: str
) -> None:
    """What runs is not guessed: it is left, and told by those commands that are asked."""
    orphan.record.unlink()
    if content is not None:
        orphan.record.write_text(content)
    with Memcached():
        assert is_running(orphan.pid)
    assert orphan.directory.exists()
    result = run("sandbox", "stop", "--stale")
    assert result.returncode == 125
    assert f"{orphan.directory} was left with a process that is not known" in result.stderr
    assert f"the directory {problem}: find it with 'fuser " in result.stderr
    assert is_running(orphan.pid)


def test_a_record_that_says_nothing_of_a_server_that_has_ended(orphan: Orphan) -> None:
    orphan.record.write_text("memcached")
    os.kill(orphan.pid, signal.SIGKILL)
    wait_until_gone(orphan.pid)
    with Memcached():
        assert not orphan.directory.exists()


def test_stop_stale(run: Run, orphan: Orphan) -> None:
    result = run("sandbox", "stop", "--stale")
    assert result.stderr == "sandbox: removed what 1 killed server had left.\n"
    assert (result.returncode, result.stdout) == (0, "")
    wait_until_gone(orphan.pid)
    assert not orphan.directory.exists()


def test_what_is_not_ours_is_left_and_told(run: Run, run_folder: Path) -> None:
    with Memcached() as server:
        stray = Path(server.directory).parent / "stray"
        stray.write_text("somebody's")
        link = stray.with_name("link")
        link.symlink_to("/")
        result = run("sandbox", "stop", "--stale")
        assert result.returncode == 125
        assert f"{stray} was not made by memcached-sandbox: remove it." in result.stderr
        assert f"{link} was not made by memcached-sandbox" in result.stderr
        assert stray.read_text() == "somebody's"
        stray.rename(stray.with_name("0a0a0a0a"))
        result = run("sandbox", "stop", "--stale")
        assert (
            "0a0a0a0a was not made by memcached-sandbox (Not a directory): remove it."
            in result.stderr
        )
        stray.with_name("0a0a0a0a").unlink()
        link.unlink()
        server.flush()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")
def test_a_directory_of_another_user_is_left_and_told(run: Run, run_folder: Path) -> None:
    with Memcached() as server:
        other = Path(server.directory).with_name("0a0a0a0a")
        other.mkdir()
        os.chown(other, 54321, 54321)
        result = run("sandbox", "stop", "--stale")
        assert result.returncode == 125
        assert f"{other} belongs to another user (54321): have it removed." in result.stderr
        assert other.exists()
        other.rmdir()


def test_one_that_is_being_made_is_not_swept(run_folder: Path) -> None:
    directory = ServerDirectory.create(None)
    with Memcached():
        assert os.path.exists(directory.fifo)
    directory.close_fds()
    with Memcached():
        assert not os.path.exists(directory.path)


def test_an_owner_that_was_killed_before_it_had_a_reaper(python: Run, run_folder: Path) -> None:
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


def test_those_of_living_owners_are_not_swept(run_folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline().split()[0])
        for _ in range(20):
            with Memcached():
                pass
        assert is_running(pid)
        owner.communicate()
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_control_directory_of_a_killed_owner(run_folder: Path) -> None:
    directory = ControlDirectory.named()
    directory.make_once()
    for name in ("socket", "refusals", "refusals-17"):
        (Path(directory.path) / name).touch()
    with Memcached():
        assert os.path.exists(directory.socket)
    directory.close_fds()
    with Memcached():
        assert not os.path.exists(directory.path)


def test_control_directory_that_is_being_made_is_not_removed(run_folder: Path) -> None:
    """It is not locked at first, but a server that is alive names it."""
    with Memcached() as server:
        directory = ControlDirectory.named()
        record = ServerDirectory(server.directory).read_record()
        lines = (Path(server.directory) / "record").read_text().split("\n")
        assert record.control == lines[2] == ""
        lines[2] = directory.name
        (Path(server.directory) / "record").write_text("\n".join(lines))
        os.mkdir(directory.path)
        with Memcached():
            assert os.path.exists(directory.path)
    with Memcached():
        assert not os.path.exists(directory.path)


def test_foreign_file_in_a_stale_directory_is_left_and_told(run: Run, run_folder: Path) -> None:
    directory = ServerDirectory.create(None)
    stray = Path(directory.path) / "stray"
    stray.write_text("somebody's")
    directory.close_fds()
    result = run("sandbox", "stop", "--stale")
    assert result.returncode == 125
    said = f"{directory.path} has files in it that memcached-sandbox has not made: remove it."
    assert said in result.stderr
    assert stray.read_text() == "somebody's"
    stray.unlink()
    with Memcached():
        assert not os.path.exists(directory.path)
