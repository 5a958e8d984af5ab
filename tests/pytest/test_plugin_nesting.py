"""A session within another run: under `sandbox exec`, or started by pytester."""

from __future__ import annotations

import re

import pytest

from ..helpers.projects import (
    PYMEMCACHE,
    MakeProject,
    Project,
    header,
    passed,
    pytest_command,
)
from ..helpers.suites import CLEAN_CACHE


def test_session_under_exec_joins_that_run(project: Project) -> None:
    project.write("test_it.py", CLEAN_CACHE)
    project.write(
        "test_mine.py",
        "import os\n"
        "def test(memcached):\n"
        "    assert memcached.address == os.environ['MEMCACHED_SANDBOX_ADDRESS']\n",
    )
    for options, servers in ([], 1), (["-n1"], 2):
        result = project.sandboxed("--", *pytest_command(*options))
        assert passed(result) == 17
        # One flush for each test, and one summary for the whole run.
        assert "gets" not in result.stdout
        counted = re.search(r"in the fullest of (\d+) servers", result.stderr)
        assert int(counted[1] if counted else 1) == servers
        assert header(result).startswith("in the run that is there already: 127.0.0.1:")


def test_session_under_exec_keeps_its_exclude_and_guard(make_project: MakeProject) -> None:
    alias = {"BACKEND": PYMEMCACHE}
    project = make_project(
        {"default": {**alias, "LOCATION": "main"}, "dead": {**alias, "LOCATION": "nowhere:1"}}
    )
    project.write(
        "test_it.py",
        "import socket\n"
        "from django.conf import settings\n"
        "def test_excluded(): assert settings.CACHES['dead']['LOCATION'] == 'nowhere:1'\n"
        "def test_guarded():\n"
        "    try: socket.create_connection(('localhost', 5))\n"
        "    except OSError: pass\n",
    )
    options = ["--memcached-sandbox-exclude=dead", "--memcached-sandbox-guard=localhost:5"]
    result = project.sandboxed("--", *pytest_command("--memcached-sandbox", *options))
    assert "1 failed, 1 passed" in result.stdout
    assert "FAILED test_it.py::test_guarded" in result.stdout


def test_session_under_exec_without_injection_joins_that_run(project: Project) -> None:
    project.write("test_it.py", CLEAN_CACHE)
    result = project.sandboxed("--no-inject", "--", *pytest_command())
    assert passed(result) == 16
    assert "336 gets" in result.stderr


@pytest.mark.parametrize(
    ("outer", "fixture", "header"),
    [("true", "memcached", "in the run"), ("false", "pytester", "64 MB")],
)
def test_session_of_pytester_restores_the_environment(
    plain: Project, outer: str, fixture: str, header: str
) -> None:
    plain.write(
        "test_it.py",
        "import os, sys\n"
        "import pytest\n"
        "pytest_plugins = ['pytester']\n"
        'INNER = """\n'
        "def test(memcached):\n"
        "    client = memcached.client()\n"
        "    assert client.add('key', 'inner', noreply=False)\n"
        "    client.close()\n"
        "test_again = test\n"
        '"""\n'
        "def run(pytester, monkeypatch, *arguments):\n"
        "    monkeypatch.delenv('PYTEST_CURRENT_TEST')\n"
        "    before = dict(os.environ), [*sys.meta_path]\n"
        "    pytester.makepyfile(INNER)\n"
        "    result = pytester.runpytest_inprocess('-Werror', '-pno:django', *arguments)\n"
        "    assert (dict(os.environ), [*sys.meta_path]) == before\n"
        "    return result\n"
        f"@pytest.mark.usefixtures({fixture!r})\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "def test_on(pytester, monkeypatch, number):\n"
        "    result = run(pytester, monkeypatch, '--memcached-sandbox')\n"
        "    result.assert_outcomes(passed=2)\n"
        f"    result.stdout.fnmatch_lines('memcached-sandbox: {header}*')\n"
        f"@pytest.mark.usefixtures({fixture!r})\n"
        "def test_off(pytester, monkeypatch):\n"
        "    run(pytester, monkeypatch).assert_outcomes(errors=2)\n",
    )
    assert passed(plain.pytest("-o", f"memcached_sandbox={outer}")) == 3
