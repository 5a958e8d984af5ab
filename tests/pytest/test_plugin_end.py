"""How a session ends: by a signal, by Ctrl-C, or because memcached died."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect
import psutil
import pytest

from ..helpers.processes import eventually, spawn, wait_until_gone
from ..helpers.projects import Project, pytest_command

# A test that does not end.
SLOW = """
import os
from pathlib import Path
from threading import Event
from django.core.cache import cache
def test(memcached):
    cache.set("key", "value")
    Path("pids").write_text(memcached.stats()["pid"])
    print("ready", flush=True)
    Event().wait()
"""


@contextmanager
def slow_run(project: Project) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Yield a session that runs its test, and all processes that it has started."""
    project.write("test_it.py", SLOW)
    with subprocess.Popen(
        pytest_command("-s"), cwd=project.folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any("ready" in line for line in process.stdout)
        yield process, psutil.Process(process.pid).children(recursive=True)


def test_killed_session_leaves_no_process(project: Project) -> None:
    with slow_run(project) as (process, children):
        process.kill()
    assert len(children) == 2  # memcached and the reaper
    wait_until_gone(*(child.pid for child in children))


def test_terminated_session_leaves_no_process(project: Project) -> None:
    with slow_run(project) as (process, children):
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    wait_until_gone(*(child.pid for child in children))


@pytest.mark.parametrize("arguments", [["-s"], ["-n2"]])
def test_ctrl_c_ends_the_session_and_its_servers(project: Project, arguments: list[str]) -> None:
    project.write("test_it.py", SLOW)
    with spawn(*pytest_command(*arguments), cwd=project.folder) as terminal:
        if arguments == ["-s"]:
            terminal.expect_exact("ready")
        else:
            terminal.expect_exact("2 workers [1 item]")
            eventually((project.folder / "pids").exists)
        children = psutil.Process(terminal.pid).children(recursive=True)
        terminal.sendcontrol("c")
        terminal.expect_exact("KeyboardInterrupt")
        terminal.expect(pexpect.EOF)
    assert terminal.signalstatus is None
    assert terminal.exitstatus == 2
    assert len(children) >= 2
    wait_until_gone(*(child.pid for child in children))


def test_dead_memcached_ends_the_session(project: Project) -> None:
    """No later test can be trusted: the session ends and says why."""
    project.write(
        "test_it.py",
        "import os, signal\n"
        "def test_1(): os.kill(int(os.environ['MEMCACHED_SANDBOX_PID']), signal.SIGKILL)\n"
        "def test_2(): pass\n",
    )
    result = project.pytest()
    assert result.returncode == 2
    assert "the sandbox's memcached cannot be emptied" in result.stdout
    assert "1 passed" in result.stdout
    assert re.search(
        r"^memcached-sandbox: memcached at \S+ was killed by signal 9", result.stdout,
        re.MULTILINE,
    )  # fmt: skip
