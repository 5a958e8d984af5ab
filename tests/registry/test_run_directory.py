"""The run directory: in which folder it lies, and when it is refused."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Memcached, SandboxError
from sandbox.registry import run_directory as run_directory_module
from sandbox.registry.run_directory import run_directory
from sandbox.server.binary import find_memcached

from ..helpers.owners import Owner
from ..helpers.processes import eventually
from ..helpers.users import ANOTHER_USER, as_root

# Some of these servers are where other sandboxes of this machine are looked for.
pytestmark = pytest.mark.whole_machine


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
    """The path of the run directory in that folder, which is not there yet."""
    path = Path(run_directory())
    assert path.parent == folder
    return path


def assert_passed_over(directory: Path, problem: str) -> None:
    """Check that a server has its files elsewhere, and that its doctor would tell why."""
    with Memcached() as server:
        assert not server.directory.startswith(str(directory))
    assert f"{directory} {problem}" in run_directory_module.problems()


def test_run_directory_that_is_a_symbolic_link_is_passed_over(
    directory: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    directory.symlink_to(target)
    assert_passed_over(directory, "is a symbolic link")
    assert list(target.iterdir()) == []


def test_run_directory_that_is_a_file_is_passed_over(directory: Path) -> None:
    directory.write_text("mine")
    assert_passed_over(directory, "is no directory")
    assert directory.read_text() == "mine"


@as_root
def test_run_directory_of_another_user_is_passed_over(directory: Path) -> None:
    """Any user may make this name in a shared folder, which must not keep others from theirs."""
    directory.mkdir(mode=0o700)
    os.chown(directory, ANOTHER_USER, ANOTHER_USER)
    assert_passed_over(directory, f"belongs to another user ({ANOTHER_USER})")
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_run_directory_that_others_can_write_to_is_passed_over(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    assert_passed_over(directory, f"can be written by others (its mode is {mode:04o})")
    assert list(directory.iterdir()) == []


def test_start_without_a_trusted_run_directory_is_an_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.symlink_to("/")
    monkeypatch.setattr(run_directory_module, "folders", lambda: [str(directory.parent)])
    problem = f"no folder .*: {directory} is a symbolic link; point TMPDIR to a folder that"
    with pytest.raises(SandboxError, match=problem):
        Memcached().start()


@pytest.fixture(params=["systemd", "no systemd", "no shared memory"])
def common_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Where the run directory lies if no variable names a usable folder."""
    systemd = tmp_path if request.param == "systemd" else tmp_path / "nothing"
    monkeypatch.setattr("sandbox.registry.run_directory.SYSTEMD", str(systemd))
    if request.param == "no shared memory":
        monkeypatch.setattr(
            "sandbox.registry.run_directory.SHARED_MEMORY", str(tmp_path / "nothing")
        )
    return "/dev/shm" if request.param == "no systemd" and Path("/dev/shm").exists() else "/tmp"


def assert_in(folder: str) -> None:
    with Memcached(unix_socket=True) as server:
        assert server.address.startswith(f"unix:{folder}/memcached-sandbox-")


def test_folder_that_does_not_exist_is_passed_over(
    folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "nothing"))
    with Memcached(unix_socket=True) as server:
        assert server.address.startswith(f"unix:{folder}/memcached-sandbox-")
    monkeypatch.setenv("TMPDIR", str(folder / "nothing"))
    assert_in(common_folder)


def test_folder_that_is_a_file_is_passed_over(
    folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("TMPDIR", str(folder / "file"))
    assert_in(common_folder)


def test_folder_whose_entries_others_can_replace_is_passed_over(
    folder: Path, common_folder: str
) -> None:
    folder.chmod(0o777)
    assert_in(common_folder)


@as_root
def test_folder_of_another_user_is_passed_over(
    folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `sudo -E`, $XDG_RUNTIME_DIR is such a folder."""
    os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert_in(common_folder)


def test_folder_too_long_for_a_socket_is_passed_over(
    folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = folder / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert_in(common_folder)


@as_root
def test_folder_within_one_of_another_user_is_passed_over(
    folder: Path, common_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner can turn a link on the way, or rename what lies there, at any time."""
    outer = folder / "outer"
    (outer / "inner").mkdir(parents=True)
    (outer / "link").symlink_to(folder)
    os.chown(outer, ANOTHER_USER, ANOTHER_USER)
    monkeypatch.setenv("TMPDIR", str(outer / "inner"))
    assert_in(common_folder)
    monkeypatch.setenv("TMPDIR", str(outer / "link"))
    assert_in(str(folder))  # where the link led to when it was looked at


def test_xdg_runtime_dir_is_preferred_to_tmpdir(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Memcached():
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    assert list(folder.iterdir()) == []


def test_folder_may_have_spaces_quotes_and_other_letters(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = folder / " ü $HOME 'x'\n;"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    with Memcached(unix_socket=True) as server:
        assert server.address.startswith(f"unix:{odd}/")
        server.flush()
    assert list(odd.iterdir()) == []
    # The reaper, which is a shell, has to remove the run directory as well.
    with Owner():
        assert len(list(odd.iterdir())) == 1
    eventually(lambda: list(odd.iterdir()) == [])
    assert list(folder.iterdir()) == [odd]


def test_start_without_a_usable_folder_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (binary,) = find_memcached()
    monkeypatch.setattr("sandbox.registry.run_directory.os.access", lambda path, _: path == binary)
    with pytest.raises(
        SandboxError,
        match=f"no folder .*: {folder} cannot be written to; .*; point TMPDIR to a folder that",
    ):
        Memcached(binary=binary).start()
