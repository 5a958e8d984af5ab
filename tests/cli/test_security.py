"""Secrets are not written, the environment runs no code, and servers listen on loopback only."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.processes import eventually


@pytest.mark.whole_machine
def test_secrets_are_not_written(run: Run) -> None:
    """Neither the record, nor the output of memcached, nor the printed lines contain them."""
    result = run(
        "sandbox", "exec", "-v", "--env", "TOKEN=hunter2-{port}", "--", sys.executable, "-c",
        "import os, pathlib\n"
        "files = [f for f in pathlib.Path(os.environ['TMPDIR']).rglob('*') if f.is_file()]\n"
        "print(len(files), any(b'hunter2' in f.read_bytes() for f in files))\n",
        PASSWORD="hunter2",
    )  # fmt: skip
    assert result.stdout == "3 False\n"  # two records, and what memcached has printed
    assert "hunter2" not in result.stderr


@pytest.mark.whole_machine
def test_environment_does_not_reach_the_shell_of_the_reaper(run: Run, tmp_path: Path) -> None:
    """The reaper is a shell, and a shell takes functions from its environment."""
    script = "from sandbox import Memcached; Memcached().start(); import os; os.kill(os.getpid(),9)"
    variables = {
        "BASH_FUNC_read%%": "() { touch owned; }",
        "BASH_FUNC_rm%%": "() { touch owned; }",
        "ENV": "touch owned",
        "BASH_ENV": "touch owned",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    (tmp_path / "rm").write_text("#!/bin/sh\ntouch owned\n")
    (tmp_path / "rm").chmod(0o755)
    assert run(sys.executable, "-c", script, **variables).returncode == -signal.SIGKILL
    folder = Path(os.environ["TMPDIR"])
    eventually(lambda: list(folder.iterdir()) == [])
    assert not (tmp_path / "owned").exists()


def test_server_listens_on_loopback_only(run: Run) -> None:
    result = run("sandbox", "exec", "--memcached-arg=-l0.0.0.0", "--", "true")
    assert result.returncode == 2
    assert "-l cannot be passed to memcached: a sandbox listens on this machine's" in result.stderr
