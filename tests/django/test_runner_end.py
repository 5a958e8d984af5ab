"""Ends of a run of the Django test runner: failures, Ctrl-C and kills leave nothing behind."""

from __future__ import annotations

import sys

import pexpect
import psutil
import pytest

from ..helpers.processes import spawn, wait_until_gone
from ..helpers.projects import Project
from ..helpers.suites import CLEAN_CACHE, KILLS_MEMCACHED


def test_failfast_ends_with_the_summary(project: Project) -> None:
    project.write(
        "tests.py",
        "from django.test import SimpleTestCase\n"
        + "".join(
            f"class T{number}(SimpleTestCase):\n    def test(self): self.fail()\n"
            for number in range(4)
        ),
    )
    result = project.manage("test", "--failfast")
    assert result.returncode == 1
    assert "FAILED (failures=1)" in result.stderr
    assert "memcached-sandbox: 0 gets" in result.stdout


def test_failing_databases_leave_nothing_behind(project: Project) -> None:
    """The fixture `run_folder` looks for what is left."""
    settings = (project.folder / "settings.py").read_text()
    project.write("settings.py", settings.replace("django.db.backends.sqlite3", "no.such.engine"))
    project.write("tests.py", CLEAN_CACHE)
    result = project.manage("test")
    assert result.returncode == 1
    assert "no.such.engine" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--parallel", "2"]])
def test_ctrl_c_ends_servers_and_workers(project: Project, arguments: list[str]) -> None:
    # Workers are killed in their tests: a pool may hang if one dies while it sends a result
    # (https://github.com/python/cpython/issues/96995).
    lasts = "True" if arguments else "not self._outcome.result.shouldStop"
    project.write(
        "tests.py",
        "from time import sleep\n"
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class A(SimpleTestCase):\n"
        "    def test(self):\n"
        "        cache.set('key', 1)\n"
        "        print('ready', flush=True)\n"
        f"        while {lasts}: sleep(0.01)\n"
        "class B(A): pass\n",
    )
    with spawn(sys.executable, "manage.py", "test", *arguments, cwd=project.folder) as terminal:
        for _ in arguments or ["this process"]:  # each worker, and there are two
            terminal.expect_exact("ready")
        children = psutil.Process(terminal.pid).children(recursive=True)
        assert sum(child.name() == "memcached" for child in children) == 1 + len(arguments)
        terminal.sendcontrol("c")
        terminal.expect_exact("memcached-sandbox: 0 gets")
        terminal.expect(pexpect.EOF)
    wait_until_gone(terminal.pid, *(child.pid for child in children))


def test_server_ends_with_a_killed_runner(project: Project) -> None:
    project.write(
        "tests.py",
        "import os, signal\n"
        "from django.test import SimpleTestCase\n"
        "class Tests(SimpleTestCase):\n"
        "    def test(self):\n"
        "        print(os.environ['MEMCACHED_SANDBOX_PID'], flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    result = project.manage("test")
    assert result.returncode == -9
    wait_until_gone(int(result.stdout.splitlines()[-1]))


def test_killed_memcached_fails_the_run(project: Project) -> None:
    project.write("tests.py", KILLS_MEMCACHED)
    result = project.manage("test")
    assert result.returncode == 1
    assert "the sandbox's memcached cannot be emptied" in result.stderr
