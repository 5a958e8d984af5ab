"""Looks at processes, and waits for what they do."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import pexpect
import psutil

Result: TypeAlias = subprocess.CompletedProcess[str]
Terminal: TypeAlias = "pexpect.spawn[str]"
T = TypeVar("T")

PATIENCE = 60  # seconds


def run_command(*command: str | Path, cwd: Path | None = None, **env: str) -> Result:
    """Run a command to its end, and return what became of it."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # seconds; `python -m tests.faults` has no pytest-timeout
    )


def is_running(pid: int) -> bool:
    """Return whether a process runs. A zombie with threads left does: its files are still open."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], T]) -> T:
    """Wait for what another process does, where no event tells, and return what is true then.

    Seconds that are slept count, not those of a clock: it may go on while the machine is paused.
    """
    for _ in range(PATIENCE * 1000):
        if met := condition():
            return met
        time.sleep(0.001)
    raise AssertionError(f"it did not happen within {PATIENCE} seconds")


def found(pattern: str, text: str) -> re.Match[str]:
    """Find what a process must have printed."""
    match = re.search(pattern, text)
    assert match is not None, f"{pattern!r} is not in {text!r}"
    return match


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints, whose output is a pipe."""
    assert process.stdout is not None
    return process.stdout.readline()


def printed(terminal: Terminal) -> str:
    """Return what a terminal has shown before that which was expected last."""
    assert terminal.before is not None
    return terminal.before


def pid_in(path: Path) -> int:
    """Wait until a process has written its pid and a newline to a file, and return the pid."""
    eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def wait_until_gone(*pids: int) -> None:
    """Wait for the end of processes, children of this one or not."""
    eventually(lambda: not any(map(is_running, pids)))


def spawn(
    command: str,
    *arguments: str,
    cwd: Path | None = None,
    dimensions: tuple[int, int] = (24, 80),
    covered: bool = False,
    **env: str,
) -> Terminal:
    """Start a command at a terminal of its own, where Ctrl-C can be typed.

    It does not run under coverage.py unless `covered`: Ctrl-C may hang it, see `without_coverage`.
    """
    environ = dict(os.environ) if covered else without_coverage()
    return pexpect.spawn(
        command,
        [*arguments],
        cwd=cwd,
        dimensions=dimensions,
        encoding="utf-8",
        timeout=300,
        env={**environ, **env},
    )


def without_coverage(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a process that is sent Ctrl-C.

    Ctrl-C may interrupt coverage.py while it holds its own lock, `Collector.lock_data`, for which
    it then waits for ever.
    """
    return {name: value for name, value in environ.items() if not name.startswith("COVERAGE_")}


def script(path: Path, text: str) -> Path:
    """Write an executable file and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path
