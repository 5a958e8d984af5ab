"""`sandbox exec` that fails itself: it neither ends before its command nor hides its status."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sandbox.errors import LIMITS

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.users import ANOTHER_USER, INTERPRETER, as_root, run_as


def test_full_stderr_keeps_the_exit_status(run: Run) -> None:
    """Neither the end of a server can be told, nor the summary."""
    command = "kill -9 $MEMCACHED_SANDBOX_PID; echo went on; exit 3"
    result = run("sh", "-c", f"sandbox exec -v -- sh -c '{command}' 2>/dev/full")
    assert (result.returncode, result.stdout) == (3, "went on\n")


# Runs `sandbox` with a method that fails once, after it has done what it should.
FAILING = """
import sys
from importlib import import_module
from sandbox.cli import main

_, method, error, *sys.argv = sys.argv
module, owner, name = method.rsplit(".", 2)
owner = getattr(import_module(module), owner)
original = getattr(owner, name)
errors = [eval(error)]

def failing(*arguments):
    result = original(*arguments)
    if errors:
        raise errors.pop()
    return result

setattr(owner, name, failing)
main()
"""


TOLD = {
    "OSError(24, 'Too many open files')": LIMITS[errno.EMFILE],
    "MemoryError()": "MemoryError",
    "OSError(9, 'Bad file descriptor')": "OSError: [Errno 9] Bad file descriptor",
    "KeyError('cmd_get')": "KeyError: 'cmd_get'",
    "PermissionError(13, 'Permission denied', '/a')": (
        "PermissionError: [Errno 13] Permission denied: '/a'"
    ),
}


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("sandbox.cli.output.ExitWatcher.check", "OSError(24, 'Too many open files')"),
        ("sandbox.cli.output.ExitWatcher.running", "MemoryError()"),
        ("sandbox.run.control.Control.stop", "OSError(9, 'Bad file descriptor')"),
        ("sandbox.run.summary.Summary.add_servers", "KeyError('cmd_get')"),
        ("sandbox.run.summary.Summary.lines", "MemoryError()"),
        ("sandbox.run.sandbox.Sandbox.stop", "PermissionError(13, 'Permission denied', '/a')"),
    ],
)
def test_error_keeps_the_exit_status_and_is_told_at_the_end(
    python: Run, method: str, error: str
) -> None:
    result = python(FAILING, method, error, "sandbox", "exec", "sh", "-c", "exit 3")
    assert result.returncode == 3
    said = result.stderr.splitlines()
    assert said[-1] == f"sandbox: sandbox exec failed beside its command: {TOLD[error]}."
    assert len(said) <= 2


def test_strict_fails_even_if_the_summary_does(python: Run) -> None:
    method, error = "sandbox.run.summary.Summary.lines", "MemoryError()"
    connect = "import socket; socket.create_connection(('127.0.0.1', 11211))"
    command = ["sandbox", "exec", "--strict", "--", sys.executable, "-c", connect]
    assert python(FAILING, method, error, *command).returncode == 125


def test_command_is_not_started_if_the_control_socket_cannot_be_served(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    result = cli("exec", "echo", "started")
    assert_one_line(result, 125, "can't start new thread: end some programs, or raise 'ulimit -u'.")


@pytest.fixture
def for_another_user() -> Iterator[Path]:
    """A folder with what the command imports, and a Python that may become root.

    No user of this machine may enter it.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        if os.statvfs(name).f_flag & os.ST_NOSUID:
            pytest.skip("/tmp ignores set-user-ID bits")
        folder = Path(name)
        os.chown(folder, ANOTHER_USER, -1)
        shutil.copytree(Path(click.__file__).parent, folder / "click")
        shutil.copy(INTERPRETER, folder / "root")
        (folder / "root").chmod(0o4755)
        yield folder


SIGNAL_TO_ROOT = """
import os, subprocess, sys
folder = {!r}
command = "import os, sys; os.setuid(0); print('ready', flush=True); sys.stdin.read(); sys.exit(3)"
with subprocess.Popen(
    [
        sys.executable, "-m", "sandbox", "exec", "-q", "--",
        f"{{folder}}/root", "-I", "-c", command,
    ],
    env={{**os.environ, "PYTHONPATH": f"{{os.getcwd()}}:{{folder}}"}},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
) as process:
    print(process.stdout.readline().strip())
    process.terminate()
    process.communicate()
    print(process.returncode)
"""


@as_root
def test_command_that_becomes_another_user_is_waited_for(for_another_user: Path) -> None:
    """No signal can be passed on to it, as to a `sudo`."""
    result = run_as(ANOTHER_USER, SIGNAL_TO_ROOT.format(str(for_another_user)))
    assert result.stdout == "ready\n3\n"
    assert result.stderr.startswith("sandbox: SIGTERM was not passed on to the command: process ")
    assert result.stderr.endswith(" is another user's.\n")
    assert result.stderr.count("\n") == 1
