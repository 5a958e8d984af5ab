"""The run directory: where it lies, whose it is, and what is not trusted to be it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Memcached, SandboxError
from sandbox.registry.directories import ServerDirectory
from sandbox.registry.run_directory import run_directory
from sandbox.server.binary import find_memcached

from ..helpers.processes import eventually

ANOTHER = 54321  # a user that is not us
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like /tmp, and TMPDIR."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def directory(folder: Path) -> Path:
    """The path of the run directory in it, which is not there yet."""
    path = Path(run_directory())
    assert path.parent == folder
    return path


def assert_refused(problem: str) -> None:
    with pytest.raises(
        SandboxError, match=f"memcached-sandbox-[0-9]+ {problem}: remove it, or point TMPDIR to"
    ):
        Memcached().start()


def assert_in(folder: str) -> None:
    with Memcached(unix_socket=True) as server:
        assert server.address.startswith(f"unix:{folder}/memcached-sandbox-")


class TestRefused:
    def test_a_symbolic_link(self, directory: Path, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.mkdir(mode=0o700)
        directory.symlink_to(target)
        assert_refused("is a symbolic link")
        assert list(target.iterdir()) == []

    def test_a_file(self, directory: Path) -> None:
        directory.write_text("mine")
        assert_refused("is no directory")
        assert directory.read_text() == "mine"

    @as_root
    def test_of_another_user(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        os.chown(directory, ANOTHER, ANOTHER)
        assert_refused(rf"belongs to another user \({ANOTHER}\)")
        assert list(directory.iterdir()) == []

    @pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
    def test_others_can_write(self, directory: Path, mode: int) -> None:
        directory.mkdir()
        directory.chmod(mode)
        assert_refused(rf"can be written by others \(its mode is {mode:04o}\)")
        assert list(directory.iterdir()) == []


class TestFolders:
    @pytest.fixture(params=["systemd", "no systemd", "no shared memory"])
    def common_folder(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> str:
        """Where the run directory lies when no variable names a folder that serves."""
        systemd = tmp_path if request.param == "systemd" else tmp_path / "nothing"
        monkeypatch.setattr("sandbox.registry.run_directory.SYSTEMD", str(systemd))
        if request.param == "no shared memory":
            monkeypatch.setattr(
                "sandbox.registry.run_directory.SHARED_MEMORY", str(tmp_path / "nothing")
            )
        return "/dev/shm" if request.param == "no systemd" and Path("/dev/shm").exists() else "/tmp"

    def test_one_that_is_not_there(
        self, folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "nothing"))
        with Memcached(unix_socket=True) as server:
            assert server.address.startswith(f"unix:{folder}/memcached-sandbox-")
        monkeypatch.setenv("TMPDIR", str(folder / "nothing"))
        assert_in(common_folder)

    def test_a_file(
        self, folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "file").touch()
        monkeypatch.setenv("TMPDIR", str(folder / "file"))
        assert_in(common_folder)

    def test_one_whose_entries_others_can_replace(self, folder: Path, common_folder: str) -> None:
        folder.chmod(0o777)
        assert_in(common_folder)

    @as_root
    def test_of_another_user(
        self, folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As $XDG_RUNTIME_DIR is when somebody has become root by sudo -E."""
        os.chown(folder, ANOTHER, ANOTHER)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        assert_in(common_folder)

    def test_too_long_for_a_socket(
        self, folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = folder / ("x" * 100)
        long.mkdir()
        monkeypatch.setenv("TMPDIR", str(long))
        assert_in(common_folder)

    def test_runtime_directory_is_preferred(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with Memcached():
            assert len(list(tmp_path.iterdir())) == 1
        assert list(tmp_path.iterdir()) == []
        assert list(folder.iterdir()) == []

    def test_spaces_quotes_and_other_letters(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        odd = folder / " ü $HOME 'x'\n;"
        odd.mkdir()
        monkeypatch.setenv("TMPDIR", str(odd))
        with Memcached(unix_socket=True) as server:
            assert server.address.startswith(f"unix:{odd}/")
            server.flush()
        assert list(odd.iterdir()) == []
        # The reaper, which is a shell, has to remove it as well.
        script = (
            "import os; from sandbox import Memcached; Memcached().start(); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", script], check=False)
        eventually(lambda: list(odd.iterdir()) == [])
        assert list(folder.iterdir()) == [odd]

    def test_none_that_serves(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        binary = find_memcached()
        monkeypatch.setattr(
            "sandbox.registry.run_directory.os.access", lambda path, _: path == binary
        )
        with pytest.raises(
            SandboxError,
            match=f"no folder .*: {folder} cannot be written to; .*; point TMPDIR to a folder that",
        ):
            Memcached(binary=binary).start()


def test_something_comes_in_between(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends its last server then removes the run directory that we have just seen."""
    mkdir, removals = os.mkdir, []

    def racing_mkdir(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if len(removals) < 3:
            removals.append(path)
            os.rmdir(path)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with Memcached() as server:
        server.flush()
    assert len(removals) == 3


def test_something_always_comes_in_between(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def racing_mkdir(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        os.rmdir(path)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with pytest.raises(SandboxError, match="no directory can be made in .*No such file"):
        Memcached().start()


def test_a_name_that_is_taken(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter([b"aaaa", b"aaaa", b"bbbb"])
    monkeypatch.setattr("os.urandom", lambda _: next(names))
    first, second = ServerDirectory.create(None), ServerDirectory.create(None)
    assert [os.path.basename(directory.path) for directory in (first, second)] == [
        b"aaaa".hex(),
        b"bbbb".hex(),
    ]
    second.remove()
    assert os.path.exists(first.fifo)
    first.remove()
