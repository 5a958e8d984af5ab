"""`sandbox exec --redirect` with what loses the environment of the run, or has no use for it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from sandbox.system import seccomp

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import Project

pytestmark = [
    pytest.mark.skipif(
        seccomp.reason_of_absence() is not None, reason="the kernel guards nothing here"
    ),
    pytest.mark.slow,
]

# Passes once on a memcached, and not again: nothing empties it.
TESTS = """
from django.core.cache import cache
from django.test import SimpleTestCase

class Tests(SimpleTestCase):
    def test(self):
        self.assertIsNone(cache.get("key"))
        cache.set("key", 1)
        self.assertEqual(cache.get("key"), 1)
"""

TOX = f"""
[tox]
env_list = it
no_package = true
[testenv]
allowlist_externals = *
commands = {sys.executable} manage.py test
"""


def assert_led(project: Project, main_memcached: MainMemcached, *command: str) -> None:
    """Run Django's tests twice under --redirect: each run has a memcached of its own."""
    options = ("--strict", "--redirect", "--guard", main_memcached.address, "--")
    for _ in range(2):
        result = project.sandboxed(*options, *command, PEX_ROOT=str(project.folder / "pex"))
        assert result.returncode == 0, result.stdout + result.stderr
        assert "sandbox: 2 gets (50.0 % hits), 1 set" in result.stderr
        assert "a connection to the main memcached was led to the sandbox" in result.stderr
        assert "no process told its CACHES" in result.stderr
        assert "was not emptied between tests" in result.stderr
    main_memcached.assert_untouched()


def test_tox_that_has_lost_the_environment(project: Project, main_memcached: MainMemcached) -> None:
    project.write("tests.py", TESTS)
    project.write("tox.ini", TOX)
    tox = ("env", "-u", "TOX_OVERRIDE", sys.executable, "-I", "-m", "tox", "-q")
    assert_led(project, main_memcached, *tox, "--workdir", ".tox")


def test_pex(project: Project, main_memcached: MainMemcached, run: Run) -> None:
    if not (uv := shutil.which("uv")):
        pytest.skip("there is no uv to build a PEX file with")
    project.write("tests.py", TESTS)
    for name in ("settings.py", "tests.py"):
        project.write(f"src/{name}", (project.folder / name).read_text())
    manage = (project.folder / "manage.py").read_text()
    project.write("src/run_tests.py", manage.replace("sys.argv", "['manage.py', 'test', 'tests']"))
    result = run(
        *(uv, "tool", "run", "pex", "--sources-directory", "src", "--entry-point", "run_tests"),
        *("--inherit-path=fallback", "--python", sys.executable, "--output-file", "app.pex"),
        cwd=project.folder, PEX_ROOT=str(project.folder / "pex"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert_led(project, main_memcached, "./app.pex")


SHOP = """
const net = require("net");
const client = net.connect({port}, "127.0.0.1");
client.setEncoding("utf8");
const lines = [];
client.on("data", data => {{
    lines.push(...data.trim().split("\\r\\n"));
    if (lines[lines.length - 1] === "END") {{
        console.log(lines.join(" "));
        client.end();
    }}
}});
client.write("set cart 0 0 4\\r\\nbook\\r\\nget cart\\r\\n");
"""


def test_program_without_python(run: Run, tmp_path: Path, main_memcached: MainMemcached) -> None:
    if not shutil.which("node"):
        pytest.skip("there is no node here")
    (tmp_path / "shop.js").write_text(SHOP.format(port=main_memcached.port))
    options = ("--redirect", "--guard", main_memcached.address, "--")
    result = run("sandbox", "exec", *options, "node", "shop.js")
    assert result.stdout == "STORED VALUE cart 0 4 book END\n", result.stderr
    assert "sandbox: 1 get (100.0 % hits), 1 set" in result.stderr
    main_memcached.assert_untouched()


# Asks at the main memcached, by the kernel alone and by this package's own hooks.
ASKS = """
import errno, socket, subprocess, sys, os
from sandbox import Server

MAIN = ("127.0.0.1", int(sys.argv[1]))
BARE = f"import socket; socket.create_connection({MAIN}).sendall(b'version\\\\r\\\\n')"

def connects():
    return subprocess.run([sys.executable, "-I", "-S", "-c", BARE], stderr=subprocess.PIPE)

assert connects().returncode == 0
with Server(os.environ["MEMCACHED_SANDBOX_ADDRESS"]).down():
    assert b"ConnectionRefusedError" in connects().stderr
assert connects().returncode == 0
"""


def test_program_that_is_led_to_a_server_in_an_outage_is_refused(
    project: Project, main_memcached: MainMemcached
) -> None:
    project.write("asks.py", ASKS)
    port = main_memcached.address.rpartition(":")[2]
    options = ("--redirect", "--guard", main_memcached.address, "--")
    result = project.sandboxed(*options, sys.executable, "asks.py", port)
    assert result.returncode == 0, result.stderr
    assert "3 connections to the main memcached were led to the sandbox" in result.stderr
    assert "1 outage, peak memory" in result.stderr
    main_memcached.assert_untouched()
