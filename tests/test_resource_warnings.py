"""No way into the sandbox leaves a socket, a file or a process to the interpreter's end.

Python's development mode warns of each. At the end of an interpreter no test sees the warning but
in the output.
"""

from __future__ import annotations

from .conftest import Run
from .helpers.processes import Result
from .helpers.projects import PYMEMCACHE, MakeProject

DEVELOPMENT_MODE = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error::ResourceWarning"}

TESTS = """
from django.core.cache import cache
from django.test import SimpleTestCase
class Tests(SimpleTestCase):
    def test(self):
        self.assertIsNone(cache.get("key"))
        cache.set("key", 1)
    test_again = test
"""


def assert_closes_all(result: Result) -> None:
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stdout + result.stderr


def test_servers_that_the_interpreter_leaves_running_close_all(python: Run) -> None:
    assert_closes_all(
        python(
            "from sandbox import Memcached, Server\n"
            "from sandbox.django import sandboxed\n"
            f"caches = {{'default': {{'BACKEND': '{PYMEMCACHE}', 'LOCATION': 'main'}}}}\n"
            "address = sandboxed(caches, start=True)['default']['LOCATION']\n"
            "Server(address).flush()\n"
            "with Memcached() as server: server.flush(); server.items()\n"
            "server = Memcached()\n"
            "server.start()\n",
            **DEVELOPMENT_MODE,
        )
    )


def test_exec_and_its_children_close_all(run: Run) -> None:
    flush = "from _memcached_sandbox.run import current_run; current_run().flush()"
    assert_closes_all(run("sandbox", "exec", "--", "python", "-c", flush, **DEVELOPMENT_MODE))


def test_sandbox_of_a_shell_closes_all(run: Run) -> None:
    script = 'eval "$(sandbox start)"; sandbox list; eval "$(sandbox stop)"'
    assert_closes_all(run("sh", "-e", "-c", script, **DEVELOPMENT_MODE))


def test_runner_closes_all(make_project: MakeProject) -> None:
    project = make_project("main")
    project.write("tests.py", TESTS)
    runner = "--testrunner=sandbox.django.runner.SandboxRunner"
    assert_closes_all(project.manage("test", runner, "--parallel=2", **DEVELOPMENT_MODE))


def test_plugin_closes_all(make_project: MakeProject) -> None:
    project = make_project("main")
    project.write("test_it.py", TESTS)
    assert_closes_all(project.pytest("--memcached-sandbox", **DEVELOPMENT_MODE))
