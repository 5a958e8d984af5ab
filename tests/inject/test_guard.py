"""The guard refuses connections to the main memcached, and `sandbox exec` reports them."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import MainMemcachedRefused
from sandbox.inject import refusals
from sandbox.run.local import sandbox_run

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
    line, hint = result.stderr.splitlines()[-2:]
    assert "--redirect leads" in hint
    assert "--strict refuses" in hint
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


# What leads to this machine: names, all interfaces, the loopback network, and what libc reads so.
HOSTS = [
    *("localhost", "LOCALHOST", "localhost.", "me.localhost", "localhost.localdomain"),
    *("ip6-localhost", os.uname().nodename, "", "127.0.0.1", "127.0.0.2", "127.255.1.9", "0.0.0.0"),
    *("127.1", "0x7f.1", "2130706433", "0", "::1", "0:0::1", "::", "::1%lo"),
    *("::ffff:127.0.0.1", "::ffff:7f00:3", "::ffff:0:0"),
]


@pytest.mark.parametrize("main", ["127.0.0.1:5", "[::1]:5", "127.0.0.2:5", "Localhost:5", "0:05"])
def test_guard_knows_the_hosts_of_this_machine(main: str) -> None:
    """Also where the main address itself has one of them."""
    with sandbox_run(guard=[main]) as entered:
        for host in HOSTS:
            with pytest.raises(MainMemcachedRefused):
                socket.create_connection((host, 5))
        for spelled in (b"localhost", bytearray(b"127.0.0.1")):
            with pytest.raises(MainMemcachedRefused), socket.socket() as connection:
                connection.connect((spelled, 5))
        taken = refusals.faults(entered.take_refusals())
        spelled_hosts = [refusal.address.rpartition(":")[0] for refusal in taken]
        assert spelled_hosts[:3] == ["localhost", "localhost", "localhost."]
        assert "0x7f.1" in spelled_hosts


def test_guard_of_this_machine_leaves_other_hosts_and_ports() -> None:
    with sandbox_run(guard=["127.0.0.1:5", "192.0.2.1:6"]) as entered:
        for peer in (("127.0.0.1", 7), ("192.0.2.1", 5), ("192.0.2.2", 6), ("126.0.0.1", 5)):
            with socket.socket() as connection:
                connection.setblocking(False)
                connection.connect_ex(peer)
        assert refusals.faults(entered.take_refusals()) == []


@pytest.mark.parametrize("guarded", ["/link/m.sock", "unix:real//m.sock"])
def test_guard_knows_a_unix_socket_by_each_path(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = f"{tmp_path}/real/m.sock"
    (tmp_path / "file").symlink_to(path)
    with sandbox_run(guard=[guarded.replace("/link", f"{tmp_path}/link")]) as entered:
        peers: list[Any] = [path, "real/m.sock", "link/../real//m.sock", "file", os.fsencode(path)]
        peers += [bytearray(os.fsencode(path)), memoryview(b"./file"), f"{path}\0more"]
        for peer in peers:
            with pytest.raises(MainMemcachedRefused), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(peer)
        taken = refusals.faults(entered.take_refusals())
        assert taken[1].address == "unix:real/m.sock"
        for other in ("real/other.sock", f"\0{path}", b"\0m.sock"):
            with socket.socket(socket.AF_UNIX) as connection:
                assert connection.connect_ex(other)


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
