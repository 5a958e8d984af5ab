"""The guard: connections to the main memcached are refused, and the tests that tried fail."""

from __future__ import annotations

import re

import pytest

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import InProcess, Project, passed, pytest_command


@pytest.mark.parametrize("under", [[], ["sandbox", "exec", "--"]])
def test_guard_fails_a_test_that_connects_to_the_main_memcached(
    project: Project, run: Run, main_memcached: MainMemcached, under: list[str]
) -> None:
    project.write(
        "test_it.py",
        "import socket, subprocess, sys\n"
        "from multiprocessing import get_context\n"
        "import pytest\n"
        f"PORT = {main_memcached.port}\n"
        "REACH = '''\n"
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 11211))\n"
        "except OSError: pass\n"
        "'''\n"
        "def reach():\n"
        "    try: socket.create_connection(('127.0.0.1', PORT))\n"
        "    except OSError: pass\n"
        "def test_itself(): reach()\n"
        "def test_command(): subprocess.check_call([sys.executable, '-c', REACH])\n"
        "def test_fork():\n"
        "    child = get_context('fork').Process(target=reach)\n"
        "    child.start(); child.join()\n"
        "@pytest.fixture\n"
        "def reaching(): reach()\n"
        "def test_fixture(reaching): pass\n"
        "@pytest.mark.xfail\n"
        "def test_xfail(): reach(); assert 0\n"
        "def test_failed(): reach(); assert 0\n"
        "def test_passes(): pass\n",
    )
    result = run(*under, *pytest_command("-rA"), cwd=project.folder)
    assert "5 failed, 1 passed, 1 error" in result.stdout, result.stdout
    assert re.search(
        r"^connecting to the main memcached was refused once \(127\.0\.0\.1:\d+\); first to "
        r"127\.0\.0\.1:\d+, CACHES\['default'\], at .*test_it\.py:11$",
        result.stdout,
        re.MULTILINE,
    )
    assert "PASSED test_it.py::test_passes" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["-n1"]])
def test_guard_reports_a_connection_outside_of_any_test(
    project: Project, arguments: list[str]
) -> None:
    project.write(
        "test_it.py",
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 11211))\n"
        "except OSError: pass\n"
        "def test(): pass\n",
    )
    result = project.pytest(*arguments)
    assert passed(result) == 1
    assert re.search(
        r"^memcached-sandbox: connecting to the main memcached was refused .*test_it\.py:2$",
        result.stdout,
        re.MULTILINE,
    )


def test_refusal_in_the_settings_has_its_traceback(project: Project) -> None:
    settings = (project.folder / "settings.py").read_text()
    connect = "import socket\nsocket.create_connection(('127.0.0.1', 11211))\n"
    project.write("settings.py", settings + connect)
    result = project.pytest()
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "settings.py" in result.stderr
    assert "MainMemcachedRefused: " in result.stderr


def test_guard_acts_without_django_and_without_a_server(plain: Project) -> None:
    """A session that uses no server is guarded, too, and so are its children."""
    plain.write(
        "reaching.py",
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
        "except OSError: pass\n",
    )
    plain.write(
        "test_it.py",
        "import subprocess, sys\n"
        "def test_port(): import reaching\n"
        "def test_child(): subprocess.check_call([sys.executable, 'reaching.py'])\n"
        "def test(): pass\n",
    )
    result = plain.pytest()
    assert "2 failed, 1 passed" in result.stdout
    assert "gets" not in result.stdout


@pytest.mark.parametrize("where", ["--memcached-sandbox-", "-omemcached_sandbox_"])
def test_guard_option_adds_an_address_or_turns_the_guard_off(
    in_process: InProcess, where: str
) -> None:
    in_process.write(
        "test_it.py",
        "import socket\n"
        "def test_port():\n"
        "    try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
        "    except OSError: pass\n"
        "def test_name():\n"
        "    try: socket.create_connection(('localhost', 5), timeout=1)\n"
        "    except OSError: pass\n",
    )
    assert "1 failed, 1 passed" in in_process.pytest().stdout
    assert "2 failed" in in_process.pytest(f"{where}guard=localhost:5").stdout
    assert passed(in_process.pytest(f"{where}guard=off")) == 2


def test_guard_option_overrides_no_guard_in_the_environment(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process.write(
        "test_it.py",
        "import socket\n"
        "def test():\n"
        "    try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
        "    except OSError: pass\n",
    )
    monkeypatch.setenv("MEMCACHED_SANDBOX_NO_GUARD", "1")
    assert passed(in_process.pytest()) == 1
    assert "1 failed" in in_process.pytest("--memcached-sandbox-guard=localhost:5").stdout


def test_strict_session_fails_if_a_connection_was_refused(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is made while a module is imported, so that no test fails."""
    in_process.write(
        "test_it.py",
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
        "except OSError: pass\n"
        "def test(): pass\n",
    )
    for flags, code in ([], 0), (["--memcached-sandbox-strict"], 1):
        result = in_process.pytest(*flags)
        assert result.returncode == code
        assert "connecting to the main memcached was refused once" in result.stdout
    monkeypatch.setenv("MEMCACHED_SANDBOX_STRICT", "yes")
    assert in_process.pytest().returncode == 1
    monkeypatch.setenv("MEMCACHED_SANDBOX_STRICT", "maybe")
    result = in_process.pytest()
    assert result.returncode == 4
    assert result.stdout == ""  # before any test has run
    said = "ERROR: MEMCACHED_SANDBOX_STRICT=maybe: must be true or false\n"
    assert result.stderr.startswith(said)
