"""The guard refuses connections to the main memcached, and `sandbox exec` reports them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import without_coverage
from ..helpers.projects import Project


@pytest.fixture
def hard_coded(project: Project, main_memcached: MainMemcached) -> Project:
    """A project whose tests connect to the main address itself."""
    project.write(
        "tests.py",
        "import asyncio, os, socket, subprocess, sys, threading\n"
        "from django.test import SimpleTestCase\n"
        f"HOST, PORT = '127.0.0.1', {main_memcached.port}\n"
        "class Tests(SimpleTestCase):\n"
        "    def refused(self): return self.assertRaises(ConnectionRefusedError)\n"
        "    def test_socket(self):\n"
        "        with self.refused() as caught: socket.create_connection((HOST, PORT))\n"
        "        words = (str(PORT), \"CACHES['default']\", 'tests.py:', 'settings.CACHES')\n"
        "        for word in words:\n"
        "            self.assertIn(word, str(caught.exception))\n"
        "    def test_name(self):\n"
        "        with self.refused(): socket.create_connection(('localhost', PORT))\n"
        "    def test_connect_ex(self):\n"
        "        with self.refused(), socket.socket() as s: s.connect_ex((HOST, PORT))\n"
        "    def test_c_level(self):\n"
        "        import _socket\n"
        "        with self.refused(): _socket.socket().connect((HOST, PORT))\n"
        "    def test_asyncio(self):\n"
        "        with self.refused(): asyncio.run(asyncio.open_connection(HOST, PORT))\n"
        "    def test_thread(self):\n"
        "        errors = []\n"
        "        def connect():\n"
        "            try: socket.create_connection((HOST, PORT))\n"
        "            except Exception as error: errors.append(error)\n"
        "        thread = threading.Thread(target=connect)\n"
        "        thread.start(); thread.join()\n"
        "        self.assertIsInstance(errors[0], ConnectionRefusedError)\n"
        "    def test_pymemcache_that_swallows(self):\n"
        "        from pymemcache import Client\n"
        "        client = Client((HOST, PORT), ignore_exc=True)\n"
        "        self.assertIsNone(client.get('canary'))\n"
        "    def test_default_port(self):\n"
        "        with self.refused(): socket.create_connection(('localhost', 11211))\n"
        "        with self.refused(): socket.create_connection(('127.0.0.1', 11211))\n"
        "    def test_other_ports_are_open(self):\n"
        "        with socket.create_server((HOST, 0)) as server:\n"
        "            socket.create_connection(server.getsockname()).close()\n",
    )
    return project


def test_guard_refuses_and_reports_each_way_to_connect(hard_coded: Project) -> None:
    result = hard_coded.test()
    line = result.stderr.splitlines()[-1]
    assert re.match(r"sandbox: connecting to the main memcached was refused 9 times \(", line)
    assert "localhost:11211" in line
    assert re.search(r"first to \S+ CACHES\['default'\], at \S+/tests\.py:\d+$", line), line


def test_strict_run_fails_after_a_refusal(hard_coded: Project) -> None:
    command = ["--", "./manage.py", "test"]
    assert hard_coded.sandboxed("--strict", *command).returncode == 125
    assert hard_coded.sandboxed("--strict", *command, "-k", "other_ports").returncode == 0


def test_subprocess_of_a_run_is_guarded(project: Project) -> None:
    connect = "import socket; socket.create_connection(('127.0.0.1', 11211))"
    result = project.sandboxed("--", "sh", "-c", f'python -c "{connect}"')
    assert "MainMemcachedRefused" in result.stderr
    assert "refused once (127.0.0.1:11211); first to 127.0.0.1:11211 at" in result.stderr


def test_guard_option_takes_names_and_unix_sockets(project: Project) -> None:
    script = (
        "import socket\n"
        "for host in ('cache.example.org', 'CACHE.example.org'):\n"
        "    try: socket.create_connection((host, 5))\n"
        "    except ConnectionRefusedError as error: print('name')\n"
        "try: socket.socket(socket.AF_UNIX).connect('/run/m.sock')\n"
        "except ConnectionRefusedError as error: print('path')\n"
    )
    options = ["--guard", "cache.example.org:5", "--guard", "unix:/run/m.sock"]
    result = project.sandboxed(*options, "--", sys.executable, "-c", script)
    assert result.stdout == "name\nname\npath\n", result.stderr
    assert project.sandboxed("--guard", "no address", "true").returncode == 2


def test_guard_knows_the_names_of_this_machine(project: Project) -> None:
    """Connecting to the address of all interfaces leads to this machine, too."""
    hosts = ["localhost", "LOCALHOST", "127.0.0.1", "0.0.0.0", "::1", "0:0::1", "::"]
    hosts.append("::ffff:127.0.0.1")
    script = (
        "import socket\n"
        f"for host in {hosts}:\n"
        "    family = socket.AF_INET6 if ':' in host else socket.AF_INET\n"
        "    try: socket.socket(family).connect((host, 5))\n"
        "    except ConnectionRefusedError as error: print(type(error).__name__)\n"
    )
    options = ["--guard", "127.0.0.1:5"]
    result = project.sandboxed(*options, "--", sys.executable, "-c", script)
    assert result.stdout.splitlines() == ["MainMemcachedRefused"] * len(hosts), result.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", "the sandbox refuses the connection"),
        ("sys.modules['_memcached_sandbox.guard'] = None", "ModuleNotFoundError"),
    ],
)
def test_process_that_clears_its_environment_is_guarded(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    main_memcached: MainMemcached,
    tmp_path: Path,
    fault: str,
    said: str,
) -> None:
    """A guard that cannot be loaded lets nothing through either."""
    for name in set(os.environ).difference(without_coverage()):
        monkeypatch.delenv(name)  # coverage.py imports sockets itself, and the guard with them
    (tmp_path / "connect.py").write_text(
        "import os, sys\n"
        "os.environ.clear()\n"
        f"{fault}\n"
        "import socket\n"
        f"socket.create_connection(('127.0.0.1', {main_memcached.port}))\n"
    )
    result = run(
        *("sandbox", "exec", "-q", "--guard", main_memcached.address),
        *("--", sys.executable, "connect.py"),
    )
    assert result.returncode == 1
    assert said in result.stderr
    main_memcached.assert_untouched()


def test_no_guard_allows_the_main_memcached(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    project = Project(tmp_path, run, main_memcached.address)
    script = f"import socket; socket.create_connection(('127.0.0.1', {main_memcached.port}))"
    shell = ["--", "./manage.py", "shell", "-c", script]
    assert "refused" in project.sandboxed(*shell).stderr
    result = project.sandboxed("--no-guard", *shell)
    assert "refused" not in result.stderr
    assert result.returncode == 0


def test_client_of_a_unix_socket_connects(project: Project) -> None:
    connect = "socket.socket(socket.AF_UNIX).connect(os.environ['MEMCACHED_SANDBOX_ADDRESS'][5:])"
    script = f"import os, socket; {connect}"
    result = project.sandboxed("--unix", "--", sys.executable, "-c", script)
    assert result.returncode == 0, result.stderr
