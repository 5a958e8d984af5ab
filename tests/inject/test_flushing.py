"""Caches are empty after each test under `sandbox exec`."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

from ..helpers.django_runs import servers_of
from ..helpers.memcacheds import PUMP
from ..helpers.projects import PYMEMCACHE, MakeProject, Project, pytest_command
from ..helpers.suites import CLEAN_CACHE, START_METHODS

each_runner = pytest.mark.parametrize(
    "runner", [["./manage.py", "test"], pytest_command()], ids=["manage.py", "pytest"]
)


def test_caches_are_empty_in_one_process(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    assert servers_of(project.test()) == 1


@pytest.mark.parametrize("start_method", START_METHODS)
def test_caches_are_empty_with_each_start_method(project: Project, start_method: str) -> None:
    project.write("tests.py", CLEAN_CACHE)
    result = project.test("--parallel", "3", START_METHOD=start_method)
    assert servers_of(result) == 4


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]])
def test_caches_are_empty_under_pytest(project: Project, arguments: list[str]) -> None:
    project.write("test_clean.py", CLEAN_CACHE)
    project.write(
        "test_functions.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "@pytest.fixture\n"
        "def filled():\n"
        "    yield\n"
        "    cache.set('key', 'by a fixture')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test(filled, number):\n"
        "    assert cache.add('key', number)\n",
    )
    result = project.sandboxed("--", sys.executable, "-m", "pytest", *arguments)
    assert "22 passed" in result.stdout, result.stdout + result.stderr
    assert "warning" not in result.stdout
    assert servers_of(result) == (3 if "-n" in arguments else 1)


def test_controller_of_pytest_workers_starts_no_further_server(make_project: MakeProject) -> None:
    """It has the one that runs already, and the others only if CACHES are read there."""
    caches = {
        alias: {"BACKEND": PYMEMCACHE, "LOCATION": f"10.0.0.1:{port}"}
        for port, alias in enumerate(("default", "second", "third"), start=11211)
    }
    project = make_project(caches)
    project.write(
        "test_it.py",
        "import os\n"
        "import pytest\n"
        "from django.conf import settings\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test(number):\n"
        "    locations = {config['LOCATION'] for config in settings.CACHES.values()}\n"
        "    assert len(locations) == 3\n"
        "    assert os.environ['MEMCACHED_SANDBOX_ADDRESS'] in locations\n",
    )
    command = pytest_command("-n2")
    result = project.sandboxed("--", *command)
    assert "4 passed" in result.stdout, result.stdout + result.stderr
    assert servers_of(result) == 1 + 2 * 3
    project.write(
        "conftest.py",
        "def pytest_sessionstart():\n"
        "    from django.conf import settings\n"
        "    assert '10.0.0.1' not in str(settings.CACHES)\n",
    )
    result = project.sandboxed("--", *command)
    assert "4 passed" in result.stdout, result.stdout + result.stderr
    assert servers_of(result) == 3 + 2 * 3


def test_server_is_empty_in_pytest_workers_without_django(project: Project) -> None:
    project.write(
        "test_plain.py",
        "import os, subprocess, sys, time\n"
        "import pytest\n"
        "from pymemcache import Client\n"
        "ADDRESS = 'MEMCACHED_SANDBOX_ADDRESS'\n"
        "SHOW = f'import os; print(os.environ[{ADDRESS!r}])'\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test(number):\n"
        "    client = Client(os.environ[ADDRESS])\n"
        "    for expected in range(1, 200):\n"
        "        client.add('key', 0, noreply=False)\n"
        "        assert client.incr('key', 1) == expected\n"
        "    shown = subprocess.check_output([sys.executable, '-c', SHOW], text=True)\n"
        "    assert shown.strip() == os.environ[ADDRESS]\n",
    )
    result = project.sandboxed("--", *pytest_command("-p", "no:django", "-n2"))
    assert "6 passed" in result.stdout, result.stdout + result.stderr
    assert servers_of(result) == 3


def test_server_is_empty_under_unittest_without_django(project: Project) -> None:
    project.write(
        "test_plain.py",
        "import os, unittest\n"
        "from pymemcache import Client\n"
        "class Tests(unittest.TestCase):\n"
        "    def test_one(self):\n"
        "        client = Client(os.environ['MEMCACHED_SANDBOX_ADDRESS'])\n"
        "        self.assertIsNone(client.get('key'))\n"
        "        client.set('key', 'value', noreply=False)\n"
        "    test_two = test_one\n",
    )
    result = project.sandboxed("--", sys.executable, "-m", "unittest")
    assert "Ran 2 tests" in result.stderr
    assert result.returncode == 0, result.stderr


@each_runner
def test_flush_happens_once_after_each_test(project: Project, runner: list[str]) -> None:
    """Django, unittest and pytest each end a test: only the outermost one flushes."""
    project.write("test_clean.py", CLEAN_CACHE)
    # memcached 1.6.25 and later may take two commands for a flush.
    assert 16 <= flushes_of(project, runner) < 32


def test_flush_never_leaves_the_caches_as_they_are(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    project.write(
        "test_kept.py",
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class A(SimpleTestCase):\n"
        "    keep_cache = True\n"
        "    def test(self): cache.set('a', 1)\n"
        "class B(SimpleTestCase):\n"
        "    keep_cache = True\n"
        "    def test(self): assert cache.get('a') == 1\n",
    )
    result = project.sandboxed("--flush", "never", "--", "./manage.py", "test")
    assert result.returncode == 1
    assert re.search(r"'Tests\d' is not None", result.stderr)
    result = project.sandboxed("--flush", "never", "--", "./manage.py", "test", "test_kept")
    assert result.returncode == 0, result.stderr


@each_runner
def test_keep_cache_of_a_class_or_a_method_keeps_until_the_end_of_the_class(
    project: Project, runner: list[str]
) -> None:
    project.write(
        "test_keep.py",
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class A(SimpleTestCase):\n"
        "    keep_cache = True\n"
        "    def test_a(self): cache.set('a', 1)\n"
        "    def test_b(self): assert cache.get('a') == 1\n"
        "    @classmethod\n"
        "    def tearDownClass(cls): assert cache.get('a') == 1\n"
        "class B(SimpleTestCase):\n"
        "    keep_cache = True\n"
        "    @classmethod\n"
        "    def setUpClass(cls):\n"
        "        super().setUpClass()\n"
        "        assert cache.get('a') is None\n"
        "        cache.set('class', 1)\n"
        "    def test_a(self): assert cache.get('class') == 1\n"
        "class C(SimpleTestCase):\n"
        "    def test_b(self):\n"
        "        assert cache.get('class') is None\n"
        "        cache.set('b', 1)\n"
        "    test_b.keep_cache = True\n"
        "    def test_c(self): assert cache.get('b') == 1\n"
        "    def test_d(self):\n"
        "        assert cache.get('b') is None\n"
        "        cache.set('d', 1)\n"
        "    test_d.keep_cache = True\n"
        "class D(SimpleTestCase):\n"
        "    def test_a(self): assert cache.get('d') is None\n",
    )
    result = project.sandboxed("--", *runner)
    assert result.returncode == 0, result.stdout + result.stderr


def test_setup_of_a_class_is_flushed_after_its_first_test(project: Project) -> None:
    project.write(
        "tests.py",
        "from django.core.cache import cache\n"
        "from django.test import TestCase\n"
        "class Tests(TestCase):\n"
        "    @classmethod\n"
        "    def setUpTestData(cls): cache.set('a', 1)\n"
        "    def test_a(self): assert cache.get('a') == 1\n"
        "    def test_b(self): assert cache.get('a') is None\n",
    )
    project.test()


RESTLESS = """
import os, subprocess, sys, unittest
from _memcached_sandbox import rest

class Tests(unittest.TestCase):
    def test(self):
        address = os.environ["MEMCACHED_SANDBOX_ADDRESS"]
        port = address.rpartition(":")[2]
        pump = subprocess.Popen([sys.executable, "-c", PUMP, port], stdout=subprocess.PIPE)
        self.addClassCleanup(pump.wait)
        self.addClassCleanup(pump.kill)
        pump.stdout.read(1)
        rest.REST_TIMEOUT = 0.02
"""


def test_server_that_is_written_to_at_the_end_of_a_test_is_named_once(project: Project) -> None:
    tests = RESTLESS + "    test_2 = test_3 = test\n"
    project.write("test_it.py", f"PUMP = {PUMP!r}\n{tests}")
    result = project.sandboxed("--strict", "--", sys.executable, "-m", "unittest")
    assert result.returncode == 0, result.stderr
    line = r"(?m)^sandbox: the memcached at 127.0.0.1:\d+ was flushed before it came to rest: .*$"
    assert len(re.findall(line, result.stderr)) == 1, result.stderr


CLEARS_CACHES = """
from django.core.cache import cache
from django.test import TestCase

class ClearingTestCase(TestCase):
    # What Django's pull request #21220 adds to its TestCase.
    clears_caches = True
    def _fixture_teardown(self):
        super()._fixture_teardown()
        if self.clears_caches:
            cache.clear()

class Tests(ClearingTestCase):
    def test_1(self):
        self.assertTrue(cache.add("key", 1))
    test_2 = test_1

class TestsThatKeep(ClearingTestCase):
    clears_caches = False
    def test_1(self):
        self.assertTrue(cache.add("key", 1))
    def test_2(self):
        self.assertFalse(cache.add("key", 1))
        cache.delete("key")
"""


@each_runner
def test_clears_caches_of_a_later_django_is_honoured(project: Project, runner: list[str]) -> None:
    project.write("test_clears.py", CLEARS_CACHES)
    assert 3 <= flushes_of(project, runner) < 5


def flushes_of(project: Project, runner: list[str]) -> int:
    """Run tests that pass, and return how often the server was flushed."""
    read = (
        "import os; from pymemcache import Client;"
        "print(Client(os.environ['MEMCACHED_SANDBOX_ADDRESS']).stats()[b'cmd_flush'])"
    )
    script = f'{shlex.join(runner)} && python -c "{read}"'
    result = project.sandboxed("--", "sh", "-c", script)
    assert result.returncode == 0, result.stdout + result.stderr
    return int(result.stdout.splitlines()[-1])
