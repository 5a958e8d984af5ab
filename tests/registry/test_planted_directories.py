"""Directories that another user has planted: nothing in them is killed, removed or connected to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.registry.directories import Record, ServerDirectory
from sandbox.system.processes import Identity
from sandbox.system.reaper import NAME

from ..conftest import Run
from ..helpers.processes import wait_until_gone
from ..helpers.users import ANOTHER_USER, as_root

pytestmark = pytest.mark.whole_machine


class Planted:
    """A server's directory that an attacker has made, with a record of a victim's process."""

    def __init__(self, run_directory: Path, victim: int, address: str) -> None:
        self.directory = run_directory / "0a0a0a0a"
        self.directory.mkdir(parents=True)
        record = Record(Identity.of(os.getpid()), Identity.of(victim), 64, "", None).text()
        (self.directory / "record").write_bytes(record + address.encode() + b"\n")
        os.mkfifo(self.directory / "fifo")
        self.precious = run_directory / "precious"
        self.precious.mkdir()
        (self.precious / "file").write_text("of the victim")

    def assert_untouched(self) -> None:
        assert {path.name for path in self.directory.iterdir()} == {"record", "fifo"}
        assert (self.precious / "file").read_text() == "of the victim"


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server of the attacker's, which never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def forged_reaper(directory: Path) -> Iterator[None]:
    """Run a process whose command line is a reaper's, as a set-user-ID program may be started."""
    command = ["sh", "-c", "read -r word", NAME, str(directory), "x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield
        process.kill()


def test_directory_on_a_forged_command_line_is_left(
    run: Run, tmp_path: Path, victim: subprocess.Popen[bytes], listener: socket.socket
) -> None:
    planted = Planted(tmp_path / "attacker", victim.pid, address_of(listener))
    with forged_reaper(planted.directory):
        for command in (["list"], ["doctor"], ["stop", "--stale"], ["stop", "0a0a0a0a"]):
            result = run("sandbox", *command)
            assert str(tmp_path / "attacker") not in result.stdout + result.stderr
    planted.assert_untouched()
    assert victim.poll() is None
    with pytest.raises(BlockingIOError):
        listener.accept()


@as_root
def test_run_directory_of_another_user_is_left(
    run: Run, run_folder: Path, victim: subprocess.Popen[bytes], listener: socket.socket
) -> None:
    directory = run_folder / f"memcached-sandbox-{os.geteuid()}"
    planted = Planted(directory, victim.pid, address_of(listener))
    os.chown(directory, ANOTHER_USER, ANOTHER_USER)
    for command in (["list"], ["stop", "--stale"], ["stop", "0a0a0a0a"]):
        result = run("sandbox", *command)
        assert str(directory) not in result.stdout + result.stderr
    with Memcached() as server:
        server.flush()
    planted.assert_untouched()
    assert victim.poll() is None
    with pytest.raises(BlockingIOError):
        listener.accept()
    subprocess.run(["rm", "-r", directory], check=True)


def test_directory_without_a_record_is_left_and_reported(run: Run, run_folder: Path) -> None:
    """A name of the package's making alone says nothing."""
    with Memcached() as server:
        foreign = Path(server.directory).with_name("0a0a0a0a")
        (foreign / "server").mkdir(parents=True)
        (foreign / "server" / "file").write_text("foreign")
        result = run("sandbox", "stop", "--stale")
        assert result.returncode == 125
        assert f"{foreign} has no record of memcached-sandbox: remove it." in result.stderr
        assert (foreign / "server" / "file").read_text() == "foreign"
        subprocess.run(["rm", "-r", foreign], check=True)


def test_links_in_a_directory_are_not_followed(run: Run, run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "port").write_text("foreign")
    (target / "record").write_bytes(b"memcached-sandbox 4\n")
    with Memcached() as server:
        parent = Path(server.directory).parent
        (parent / "0a0a0a0a").symlink_to(target)
        linked = parent / "0b0b0b0b"
        linked.mkdir()
        (linked / "record").symlink_to(target / "record")
        result = run("sandbox", "stop", "--stale")
        assert result.returncode == 125
        assert f"{parent}/0a0a0a0a was not made by memcached-sandbox" in result.stderr
        assert f"{linked} has a record that cannot be read" in result.stderr
        stale = ServerDirectory.create(None)
        (Path(stale.folder) / "folder").symlink_to(target)
        stale.close_fds()
        run("sandbox", "stop", "--stale")
        assert not os.path.exists(stale.path)
        folder = parent / "0c0c0c0c"
        folder.mkdir()
        (folder / "record").write_bytes(b"memcached-sandbox 4\n")
        (folder / "server").symlink_to(target)
        result = run("sandbox", "stop", "--stale")
        assert f"{folder} has a 'server' in it that memcached-sandbox has not made" in result.stderr
        subprocess.run(["rm", "-r", folder], check=True)
        (linked / "record").unlink()
        (parent / "0a0a0a0a").unlink()
        linked.rmdir()
    assert {path.name for path in target.iterdir()} == {"port", "record"}


@as_root
def test_process_with_the_rights_of_two_users_starts_nothing(run_folder: Path) -> None:
    """A set-user-ID program takes its environment from another user."""
    result = subprocess.run(
        [sys.executable, "-c", TWO_USERS, str(ANOTHER_USER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        f"this process has the rights of user 0 and runs for user {ANOTHER_USER}" in result.stdout
    ), result.stderr
    assert list(run_folder.iterdir()) == []


TWO_USERS = """
import os, sys
from sandbox import Memcached, SandboxError
os.setresuid(int(sys.argv[1]), 0, 0)
try:
    Memcached().start()
except SandboxError as error:
    print(error)
"""


def test_fifo_that_is_missing_proves_no_end(run: Run, victim: subprocess.Popen[bytes]) -> None:
    """The server of a stale directory runs as long as the kernel says so."""
    directory = ServerDirectory.create(None)
    directory.write_record(victim.pid, 64, "")
    os.unlink(directory.fifo)
    assert not directory.has_exited(0)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    wait_until_gone(victim.pid)
    assert directory.has_exited(0)
    directory.remove()
    directory.close_fds()
