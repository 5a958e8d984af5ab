"""Foreign files and directories: the cleanup leaves and reports them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.registry.directories import ServerDirectory

from ..conftest import Run
from ..helpers.users import ANOTHER_USER, as_root

pytestmark = pytest.mark.whole_machine


def test_foreign_file_in_the_run_directory_is_left_and_reported(run: Run, run_folder: Path) -> None:
    with Memcached() as server:
        stray = Path(server.directory).parent / "stray"
        stray.write_text("foreign")
        link = stray.with_name("link")
        link.symlink_to("/")
        result = run("sandbox", "stop", "--stale")
        assert result.returncode == 125
        assert f"{stray} was not made by memcached-sandbox: remove it." in result.stderr
        assert f"{link} was not made by memcached-sandbox" in result.stderr
        assert stray.read_text() == "foreign"
        stray.rename(stray.with_name("0a0a0a0a"))
        result = run("sandbox", "stop", "--stale")
        assert (
            "0a0a0a0a was not made by memcached-sandbox (Not a directory): remove it."
            in result.stderr
        )
        stray.with_name("0a0a0a0a").unlink()
        link.unlink()
        server.flush()


def test_foreign_file_in_a_stale_directory_is_left_and_reported(run: Run, run_folder: Path) -> None:
    directory = ServerDirectory.create(None)
    stray = Path(directory.path) / "stray"
    stray.write_text("foreign")
    directory.close_fds()
    result = run("sandbox", "stop", "--stale")
    assert result.returncode == 125
    said = f"{directory.path} has files in it that memcached-sandbox has not made: remove it."
    assert said in result.stderr
    assert stray.read_text() == "foreign"
    stray.unlink()
    with Memcached():
        assert not os.path.exists(directory.path)


@as_root
def test_directory_of_another_user_is_left_and_reported(run: Run, run_folder: Path) -> None:
    with Memcached() as server:
        other = Path(server.directory).with_name("0a0a0a0a")
        other.mkdir()
        os.chown(other, ANOTHER_USER, ANOTHER_USER)
        result = run("sandbox", "stop", "--stale")
        assert result.returncode == 125
        assert (
            f"{other} belongs to another user ({ANOTHER_USER}): have it removed." in result.stderr
        )
        assert other.exists()
        other.rmdir()
