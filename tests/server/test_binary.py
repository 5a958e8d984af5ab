"""The memcached to run: where it is looked for, and what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from sandbox import BinaryError, Memcached
from sandbox.server import installed
from sandbox.server.binary import USUAL_FOLDERS, find_memcached

from ..helpers.installs import SYSTEM_MEMCACHED, install_by_hand, needs_apt
from ..helpers.processes import script
from ..helpers.users import ANOTHER_USER, as_root


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
    with pytest.raises(
        BinaryError, match="'No such' is neither on PATH nor an installed suite: give"
    ):
        Memcached(binary="No such").start()


@pytest.mark.skipif(
    os.path.dirname(SYSTEM_MEMCACHED) not in USUAL_FOLDERS, reason="memcached is not of the system"
)
def test_usual_folders_are_searched_besides_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Memcached() as server:
        assert server.command[0].endswith("/memcached")


def test_memcached_of_the_own_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    """As conda, nix and wheels have it."""
    (tmp_path / "bin").mkdir()
    own = script(tmp_path / "bin/memcached", "")
    on_path = script(tmp_path / "memcached", "")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_memcached() == (str(on_path),)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert find_memcached() == (str(own),)
    # That of the system's Python comes when it is its turn.
    monkeypatch.setattr("sandbox.server.binary.USUAL_FOLDERS", (str(own.parent),))
    assert find_memcached() == (str(on_path),)


def test_installed_memcached_is_run_if_there_is_no_other(
    data: Path, without_memcached: Path
) -> None:
    install_by_hand(data, "buzz", version="1.6.38")  # no system has this suite any more
    install_by_hand(data, "hamm", version="1.6.9")
    assert find_memcached() == (f"{data}/buzz/memcached",)  # the newest
    install_by_hand(data, installed.own_suite(), version="1.5.22")
    assert find_memcached() == (f"{data}/{installed.own_suite()}/memcached",)
    other = script(without_memcached / "memcached", "")
    assert find_memcached() == (str(other),)


def test_suite_is_run_by_its_name(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a loader, there is no shell in between, and the process is called memcached."""
    install_by_hand(data, "trixie", with_libraries=True)
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", "trixie")
    with Memcached() as server:
        libraries = ["--library-path", f"{data}/trixie/lib", f"{data}/trixie/bin/memcached"]
        assert server.command[:4] == [f"{data}/trixie/memcached", *libraries]
        process = psutil.Process(server.pid)
        assert (process.name(), process.cmdline()) == ("memcached", [*server.command])
        server.flush()


def test_name_is_looked_up_on_path_before_the_suites(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_by_hand(data, "trixie")
    on_path = script(tmp_path / "trixie", "")
    assert find_memcached("trixie") == (f"{data}/trixie/memcached",)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_memcached("trixie") == (str(on_path),)
    assert find_memcached(f"{data}/trixie/memcached") == (f"{data}/trixie/memcached",)


@needs_apt
def test_suite_that_is_not_installed_is_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "^no trixie on PATH and no such suite: run sandbox install --suite trixie$"
    with pytest.raises(BinaryError, match=said):
        Memcached(binary="trixie").start()
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", "trixie")
    with pytest.raises(BinaryError, match=f"^MEMCACHED_SANDBOX_BINARY=trixie: {said[1:]}"):
        Memcached().start()
    (data / "trixie").mkdir(parents=True)
    (data / "trixie/version").write_text("1.6.38")
    with pytest.raises(BinaryError, match="no such suite"):
        Memcached(binary="trixie").start()


@as_root
def test_what_another_user_has_installed_is_not_run(data: Path, without_memcached: Path) -> None:
    folder = install_by_hand(data, "trixie")
    os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    for binary in ("trixie", None):
        with pytest.raises(BinaryError, match="neither on PATH nor an installed|was not found"):
            find_memcached(binary)


BY_SANDBOX = "'sandbox install' gets one without root, and starts nothing"
STARTS_ONE = "gets one as well, but starts one on port 11211 for everybody"


@pytest.mark.parametrize(
    ("manager", "said"),
    [
        ("apt-get", f"{BY_SANDBOX}; 'sudo apt-get install memcached' {STARTS_ONE}"),
        ("brew", f"{BY_SANDBOX}; 'brew install memcached' gets one as well"),
        ("apk", "install it with 'sudo apk add memcached'"),
        ("", "install it with your system's package manager"),
    ],
)
def test_missing_memcached_is_an_error_that_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, without_memcached: Path, manager: str, said: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    if manager:
        script(without_memcached / manager, "")
    with pytest.raises(BinaryError) as info:
        find_memcached()
    assert str(info.value) == (
        f"memcached was not found on PATH or in the usual folders: {said}; "
        "or name one in MEMCACHED_SANDBOX_BINARY"
    )


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
