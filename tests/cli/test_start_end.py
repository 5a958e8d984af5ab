"""How the sandbox of a shell ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.processes import eventually, is_running, wait_until_gone
from ..helpers.projects import Project
from ..helpers.shells import EVALUATED, Shell, each_shell


@each_shell
def test_sandbox_ends_with_its_shell(run_folder: Path, shell: str) -> None:
    session = Shell(shell)
    session.run(EVALUATED[shell].format(options=""))
    server = session.server()
    session.end()
    wait_until_gone(server.pid)
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_sandbox_started_by_a_wrapper_ends_with_the_outer_shell(tmp_path: Path) -> None:
    """The sandbox belongs to the shell that reads the output, not to a process in between."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nsandbox "$@"; exit\n')
    wrapper.chmod(0o755)
    session = Shell("sh")
    session.run(f'eval "$(true; {wrapper} start; true)"')
    server = session.server()
    time.sleep(0.3)  # no event tells that nothing happens
    assert is_running(server.pid)
    session.end()
    wait_until_gone(server.pid)


def test_daemon_closes_the_pipes_that_it_inherits(run: Run, run_folder: Path) -> None:
    """A reader of such a pipe would wait until the daemon ends."""
    result = run("sh", "-c", 'exec 7>&1; eval "$(sandbox start)"; echo started; sleep 0')
    assert result.stdout == "started\n"
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_sandbox_ends_after_its_ttl(shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start --ttl 2s)"')
    wait_until_gone(shell.server_pid())
    eventually(lambda: list(run_folder.iterdir()) == [])
    assert shell.process.poll() is None


def test_sandbox_ends_with_its_memcached(shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start)"')
    shell.server().kill()
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_killed_daemon_takes_memcached_along(shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start)"')
    server = shell.server()
    shell.daemon().kill()
    wait_until_gone(server.pid)
    eventually(lambda: list(run_folder.iterdir()) == [])


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_daemon_ends_the_sandbox_at_a_signal(shell: Shell, run_folder: Path, name: str) -> None:
    shell.run('eval "$(sandbox start)"')
    daemon = shell.daemon()
    daemon.send_signal(getattr(signal, f"SIG{name}"))
    wait_until_gone(daemon.pid)
    assert list(run_folder.iterdir()) == []


def test_project_after_the_end_says_what_to_do(run: Run, shell: Shell, project: Project) -> None:
    """The project must neither use the main memcached nor end in silence."""
    shell.run(f"cd {project.folder}")
    shell.run('eval "$(sandbox start)"')
    control = shell.variables()["MEMCACHED_SANDBOX_CONTROL"]
    run("sandbox", "stop", shell.id())
    eventually(lambda: not os.path.exists(control))
    said = shell.run(f"{sys.executable} manage.py check 2>&1 | grep ^sandbox:")
    assert said.startswith("sandbox: the sandbox of this run has ended: nobody listens at ")
    assert "start another, or 'sandbox stop' if it was that of a shell" in said
    assert shell.run('eval "$(sandbox stop)"') == ""
    assert "MEMCACHED_SANDBOX_ADDRESS" not in shell.variables()
