"""Runs the command `sandbox` within this process, for tests that need no process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sandbox.cli import main

from .processes import Result


class Cli:
    """Runs `sandbox` in this process, and lets it look only where this test has its files.

    What else runs on this machine is none of the test's business.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        run_folder: Path,
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd  # sees what child processes write, too
        self.run_directory = run_folder / f"memcached-sandbox-{os.geteuid()}"
        folders = [str(run_folder)]
        monkeypatch.setattr("sandbox.registry.run_directory.folders", lambda: folders)

    def __call__(self, *arguments: str) -> Result:
        self._monkeypatch.setattr("sys.argv", ["sandbox", *arguments])
        self._capfd.readouterr()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            with pytest.raises(SystemExit) as exit_:
                main()
        finally:
            # `exec` holds signals for its command, in the thread of all later tests.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return Result(arguments, int(exit_.value.code or 0), *self._capfd.readouterr())


def assert_one_line(result: Result, status: int, message: str) -> None:
    """Check the exit status of a command that has printed one line, to stderr.

    ``sandbox start`` also prints what makes the shell fail that evaluates its output.
    """
    assert message in result.stderr
    assert result.stderr.startswith("sandbox: ")
    assert result.stderr.count("\n") == 1
    output = "false\n" if "start" in result.args else ""
    assert (result.returncode, result.stdout) == (status, output)
