"""Making a directory in the run directory, and what may come in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandbox import Memcached, SandboxError
from sandbox.registry.directories import ServerDirectory


def test_directory_is_made_despite_removals_of_the_run_directory(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that ends its last server removes the run directory."""
    mkdir = os.mkdir
    removals: list[str] = []

    def racing_mkdir(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if len(removals) < 3:
            removals.append(path)
            os.rmdir(path)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with Memcached() as server:
        server.flush()
    assert len(removals) == 3


def test_run_directory_that_is_always_removed_is_an_error(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def racing_mkdir(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        os.rmdir(path)

    monkeypatch.setattr("os.mkdir", racing_mkdir)
    with pytest.raises(SandboxError, match="no directory can be made in .*No such file"):
        Memcached().start()


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
