"""Commands that have no free file descriptor: one line, and nothing is left."""

from __future__ import annotations

import errno
import resource
import subprocess
from functools import partial
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.errors import LIMITS

from ..helpers.cli import Cli, assert_one_line
from ..helpers.processes import without_coverage

LINE = f"{LIMITS[errno.EMFILE]}.\n"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("descriptors", [5, 6, 7, 8, 9])
def test_start_with_few_descriptors_is_one_line(run_folder: Path, descriptors: int) -> None:
    """Be it the shell's process or the one in the background that has none."""
    limited = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (descriptors, descriptors))
    result = subprocess.run(
        ["sandbox", "start"],
        preexec_fn=limited,
        env=without_coverage(),  # It would need descriptors as well.
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_line(result, 125, LINE)
    assert list(run_folder.glob("*/*")) == []


@pytest.mark.parametrize("command", ["list", "stop --stale", "doctor"])
def test_command_without_a_descriptor_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with Memcached():
        monkeypatch.setattr("os.scandir", fail)
        monkeypatch.setattr("os.listdir", fail)
        assert_one_line(cli(*command.split()), 125, LINE)
        monkeypatch.undo()
