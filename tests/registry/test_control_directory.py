"""Control directories: which of them the next start removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.registry.directories import ControlDirectory, ServerDirectory

pytestmark = pytest.mark.whole_machine


def test_control_directory_of_a_killed_owner_is_removed(run_folder: Path) -> None:
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
    """The directory is not locked at first, but a server that is alive names it."""
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
