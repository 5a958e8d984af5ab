"""Workers of pytest-xdist: each has its own servers."""

from __future__ import annotations

import re
import sys

import pytest

from ..helpers.processes import wait_until_gone
from ..helpers.projects import Project, header, passed, summary
from ..helpers.suites import CLEAN_CACHE


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        (["-n2"], 2),
        # -n does not count these workers.
        (["--dist=load", "--tx=popen", f"--tx=popen//python={sys.executable}"], 2),
    ],
)
def test_workers_have_their_own_servers(
    project: Project, arguments: list[str], workers: int
) -> None:
    for number in range(2):
        project.write(f"test_{number}.py", CLEAN_CACHE)
    result = project.pytest("-Werror", *arguments)
    assert passed(result) == 32
    # pytest-django loads Django in the controller as well.
    assert summary(result).endswith(f"in the fullest of {workers + 1} servers")
    assert re.search(r"^672 gets \(90.5 % hits\), 672 sets,", summary(result))
    assert re.fullmatch(r"64 MB, \S+ in place of \S+, and others on each worker", header(result))


def test_workers_that_each_run_all_tests(project: Project) -> None:
    project.write("test_it.py", CLEAN_CACHE)
    result = project.pytest("--dist=each", "--tx=2*popen")
    assert passed(result) == 32
    assert summary(result).startswith("672 gets (90.5 % hits), 672 sets,")


def test_controller_without_django_starts_no_server(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(8))\n"
        "def test(memcached, number):\n"
        "    client = memcached.client()\n"
        "    for expected in range(1, 100):\n"
        "        client.add('key', 0, noreply=False)\n"
        "        assert client.incr('key', 1) == expected\n"
        "    client.close()\n",
    )
    result = plain.pytest("-n2")
    assert passed(result) == 8
    assert header(result) == "64 MB, on each worker"
    assert summary(result).endswith("in the fullest of 2 servers")


def test_workers_get_the_options(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "def test(memcached): assert memcached.stats()['limit_maxbytes'] == str(8 << 20)\n",
    )
    assert passed(plain.pytest("-n1", "--memcached-sandbox-memory=8")) == 1


def test_killed_worker_takes_its_servers_along_and_is_replaced(project: Project) -> None:
    project.write(
        "test_it.py",
        "import os, signal\n"
        "from pathlib import Path\n"
        "def test_killed(memcached):\n"
        "    Path('pid').write_text(memcached.stats()['pid'])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def test_other(memcached): pass\n",
    )
    result = project.pytest("-n1")
    assert "1 failed, 1 passed" in result.stdout
    assert "worker 'gw0' crashed" in result.stdout
    assert summary(result).endswith("in the fullest of 2 servers")
    wait_until_gone(int((project.folder / "pid").read_text()))
