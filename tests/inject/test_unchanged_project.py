"""Projects that do not know the package run unchanged under `sandbox exec`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.django_runs import servers_of
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import Project, stripped_bookshop


def test_bookshop_passes_serially(run: Run, main_memcached: MainMemcached, tmp_path: Path) -> None:
    bookshop = stripped_bookshop(tmp_path)
    result = run(
        "sandbox", "exec", "--", "./manage.py", "test",
        cwd=bookshop, MEMCACHED=main_memcached.address,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    main_memcached.assert_untouched()


def test_bookshop_passes_in_parallel(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    result = run(
        "sandbox", "exec", "--", "./manage.py", "test", "--parallel", "4",
        cwd=stripped_bookshop(tmp_path), MEMCACHED=main_memcached.address,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert servers_of(result) >= 3
    main_memcached.assert_untouched()


def test_project_keeps_its_own_sandbox_and_sitecustomize(project: Project) -> None:
    project.write("sandbox/__init__.py", "mine = True\n")
    project.write("sitecustomize.py", "import builtins; builtins.customized = __file__\n")
    project.write(
        "tests.py",
        "import sys, sandbox\n"
        "from django.test import SimpleTestCase\n"
        "class Tests(SimpleTestCase):\n"
        "    def test(self):\n"
        "        self.assertTrue(sandbox.mine)\n"
        "        self.assertTrue(customized.endswith('sitecustomize.py'))\n"
        "        self.assertEqual(sys.modules['sitecustomize'].__file__, customized)\n"
        "        self.assertNotIn('inject', ''.join(sys.path))\n",
    )
    result = project.sandboxed(
        "--", "sh", "-c", "PYTHONPATH=$PYTHONPATH:$PWD exec ./manage.py test"
    )
    assert result.returncode == 0, result.stderr


def test_python_imports_no_more_than_the_hooks_need(project: Project, run: Run) -> None:
    script = "import sys; print(*sorted(sys.modules))"
    bare = run(sys.executable, "-c", script).stdout.split()
    hooked = project.sandboxed("-q", "--", sys.executable, "-c", script).stdout.split()
    assert "_memcached_sandbox.hooks" in hooked
    assert set(hooked) - set(bare) <= {
        "__future__",
        "_memcached_sandbox",
        "_memcached_sandbox.address",  # if coverage.py imports sockets, and the next two
        "_memcached_sandbox.clients",
        "_memcached_sandbox.guard",
        "_memcached_sandbox.hooks",
        "sitecustomize",
    }


def test_python_older_than_the_package_runs_its_tests(project: Project) -> None:
    versions = Path.home() / ".pyenv" / "versions"
    interpreters = [
        *versions.glob("3.[89].*/bin/python3"),
        *Path("/usr/bin").glob("python3.[89]"),
    ]
    if not interpreters:
        pytest.skip("no Python 3.8 or 3.9 here")
    project.write(
        "test_plain.py",
        "import os, socket, unittest\n"
        "def send(command):\n"
        "    host, port = os.environ['MEMCACHED_SANDBOX_ADDRESS'].split(':')\n"
        "    with socket.create_connection((host, int(port))) as connection:\n"
        "        connection.sendall(command)\n"
        "        return connection.recv(100)\n"
        "class Tests(unittest.TestCase):\n"
        "    def test_one(self):\n"
        "        self.assertEqual(send(b'add key 0 0 1\\r\\n1\\r\\n'), b'STORED\\r\\n')\n"
        "        with self.assertRaises(ConnectionRefusedError):\n"
        "            socket.create_connection(('127.0.0.1', 11211))\n"
        "        from _memcached_sandbox import locations, patches, run\n"
        "        self.assertEqual(locations.addresses('a;b:1'), ['a:11211', 'b:1'])\n"
        "        self.assertNotEqual(run.current_run().resolve(['a:1']), {'a:1': 'a:1'})\n"
        "    test_two = test_one\n",
    )
    for interpreter in interpreters:
        result = project.sandboxed("--", interpreter, "-m", "unittest")
        assert "Ran 2 tests" in result.stderr
        assert result.returncode == 0, result.stderr


def test_patched_modules_keep_their_loaders(project: Project) -> None:
    script = (
        "import inspect, django.conf, unittest.case\n"
        "for module in (django.conf, unittest.case):\n"
        "    print(type(module.__loader__).__name__, type(module.__spec__.loader).__name__)\n"
        "    inspect.getsource(module)\n"
    )
    result = project.sandboxed("-q", "--", sys.executable, "-c", script)
    assert result.stdout == "SourceFileLoader SourceFileLoader\n" * 2, result.stderr


def test_variables_of_paths_and_plugins_keep_their_values(project: Project) -> None:
    result = project.sandboxed(
        "-q", "--", "printenv", "PYTHONPATH", "PYTEST_PLUGINS",
        PYTHONPATH="/mine", PYTEST_PLUGINS="",
    )  # fmt: skip
    path, plugins = result.stdout.splitlines()
    assert path.split(os.pathsep)[1:] == ["/mine"]
    assert plugins == "_memcached_sandbox.pytest_plugin"
