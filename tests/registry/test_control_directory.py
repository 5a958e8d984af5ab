"""Control directories: which of them the next start removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.registry.directories import ControlDirectory

pytestmark = pytest.mark.whole_machine


def test_control_directory_of_a_killed_owner_is_removed(run_folder: Path) -> None:
    directory = ControlDirectory.create()
    for name in ("socket", "refusals", "refusals-17"):
        (Path(directory.path) / name).touch()
    with Memcached():
        assert os.path.exists(directory.socket)
    directory.close_fds()
    with Memcached():
        assert not os.path.exists(directory.path)
