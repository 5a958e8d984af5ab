"""The memcached to run: where it is looked for, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import BinaryError, Memcached

from ..helpers.processes import script


def test_binary_of_the_environment_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrapper = script(tmp_path / "wrapper", '#!/bin/sh\nexec memcached "$@"\n')
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", str(wrapper))
    with Memcached() as server:
        assert server.command[0] == str(wrapper)
        server.flush()


def test_binary_without_a_folder_is_looked_up_on_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "mc", '#!/bin/sh\nexec memcached "$@"\n')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with Memcached(binary="mc") as server:
        assert server.command[0] == str(tmp_path / "mc")
    with pytest.raises(BinaryError, match="'No such' is not on PATH: give its full path"):
        Memcached(binary="No such").start()


def test_usual_folders_are_searched_besides_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Memcached() as server:
        assert server.command[0].endswith("/memcached")


def test_error_names_the_command_that_installs_memcached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "apk", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sandbox.server.binary.USUAL_FOLDERS", ())
    with pytest.raises(BinaryError, match="not found on PATH.*install it with .*apk add memc"):
        Memcached().start()


def test_error_names_no_command_without_a_package_manager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sandbox.server.binary.USUAL_FOLDERS", ())
    with pytest.raises(BinaryError, match="install it with your system's package manager"):
        Memcached().start()


def test_binary_of_the_environment_is_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", "/nope")
    said = "^MEMCACHED_SANDBOX_BINARY=/nope: the memcached binary '/nope' does not exist"
    with pytest.raises(BinaryError, match=said):
        Memcached().start()


def test_binary_that_is_missing_or_not_executable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BinaryError, match="does not exist: correct the path"):
        Memcached(binary=tmp_path / "nothing").start()
    (tmp_path / "text").write_text("text")
    with pytest.raises(BinaryError, match="is not an executable file.*chmod"):
        Memcached(binary=tmp_path / "text").start()
    with pytest.raises(BinaryError, match="is not an executable file"):
        Memcached(binary=tmp_path).start()


def test_binary_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BinaryError, match="cannot be executed \\(Exec format error\\): name"):
        Memcached(binary=script(tmp_path / "garbage", "\x7fELF garbage")).start()
