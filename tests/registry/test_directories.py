"""Making a directory in the run directory, and what may come in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandbox import Memcached, SandboxError
from sandbox.registry.directories import ServerDirectory

from ..conftest import Run


def test_directory_is_made_despite_removals_of_the_run_directory(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that ends its last server removes the run directory."""
    mkdir = os.mkdir
    removals: list[str] = []

    def racing_mkdir(path: str, mode: int, dir_fd: int) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        if len(removals) < 3:
            removals.append(path)
            os.rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with Memcached() as server:
        server.flush()
    assert len(removals) == 3


def test_run_directory_that_is_always_removed_is_an_error(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def racing_mkdir(path: str, mode: int, dir_fd: int) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        os.rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with pytest.raises(SandboxError, match="no directory can be made: No such file"):
        Memcached().start()


@pytest.mark.parametrize("moment", ["run directory", "server's directory"])
def test_no_server_is_made_in_a_folder_that_was_planted_meanwhile(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The run directory goes with its last server, and an attacker makes a link of its name."""
    mkdir, planted = os.mkdir, tmp_path / "planted"
    planted.mkdir()
    run_directory = run_folder / f"memcached-sandbox-{os.geteuid()}"
    moments = iter(["run directory", "server's directory"])

    def racing_mkdir(path: str, mode: int, dir_fd: int) -> None:
        now = next(moments, None)
        if now == "server's directory" == moment:
            run_directory.rename(tmp_path / "removed")
            run_directory.symlink_to(planted)
        mkdir(path, mode, dir_fd=dir_fd)
        if now == "run directory" == moment:
            run_directory.rmdir()
            run_directory.symlink_to(planted)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with Memcached(unix_socket=True) as server:
        assert not server.address.startswith(f"unix:{run_folder}")
        assert list(planted.iterdir()) == []
    assert list(planted.iterdir()) == []
    run_directory.unlink()


def test_umask_that_takes_rights_from_the_owner_is_an_error(python: Run, run_folder: Path) -> None:
    for umask in ("0o277", "0o577", "0o777"):
        result = python(
            f"import os; os.umask({umask})\n"
            "from sandbox import Memcached, SandboxError\n"
            "try: Memcached().start()\n"
            "except SandboxError as error: print(error)\n",
            PYTHONDONTWRITEBYTECODE="1",
        )
        assert "umask of this process takes rights from the owner" in result.stdout, result.stderr
    assert list(run_folder.iterdir()) == []


def test_directory_whose_name_is_taken_gets_another_name(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_directory_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_permitted(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.mkfifo", not_permitted)
    with pytest.raises(
        SandboxError, match="be made in .*: Operation not permitted; point TMPDIR to a folder"
    ):
        Memcached().start()
