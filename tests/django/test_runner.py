"""The Django test runner and its mixin, in real projects with `manage.py test`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import psutil
import pytest

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import spawn, wait_until_gone
from ..helpers.projects import PYMEMCACHE, Project
from ..helpers.suites import CLEAN_CACHE, KILLS_MEMCACHED, START_METHODS, WORKERS_AND_CHILDREN

RUNNER = 'TEST_RUNNER = "sandbox.django.runner.SandboxRunner"\n'

OWN_RUNNER = """
from django.test.runner import DiscoverRunner
from sandbox.django.runner import SandboxRunnerMixin

class TheirRunner(DiscoverRunner):
    def setup_databases(self, **kwargs):
        from django.core.cache import cache
        cache.set("before", 1)
        print("their databases")
        return super().setup_databases(**kwargs)

    def run_tests(self, *args, **kwargs):
        print("their tests")
        return super().run_tests(*args, **kwargs)

class Runner(SandboxRunnerMixin, TheirRunner):
    memcached_exclude = ["dead"]
    memcached_guard = ["localhost:5"]
    memcached_options = {"memory_mb": 16, "threads": 2}
"""


def with_runner(project: Project, runner: str = RUNNER) -> Project:
    project.write("settings.py", (project.folder / "settings.py").read_text() + runner)
    return project


@pytest.fixture
def project(tmp_path: Path, run: Run, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project with our runner, whose main memcached must not be touched."""
    yield with_runner(Project(tmp_path, run, main_memcached.address))
    main_memcached.assert_untouched()


def passes(result: subprocess.CompletedProcess[str]) -> str:
    """Return the line about the cache of a run that has passed."""
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = re.findall(r"^memcached-sandbox: (.*gets.*)$", result.stdout, re.MULTILINE)
    return line


def test_serially(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    assert re.fullmatch(
        r"336 gets \(90\.5 % hits\), 336 sets, 0 evictions, peak memory \d\.\d of 64 MB",
        passes(project.manage("test")),
    )


@pytest.mark.parametrize("start_method", START_METHODS)
def test_in_parallel(project: Project, start_method: str) -> None:
    project.write("tests.py", CLEAN_CACHE)
    result = project.manage("test", "--parallel", "3", START_METHOD=start_method)
    assert re.fullmatch(
        r"336 gets \(90\.5 % hits\), 336 sets, .* in the fullest of 4 servers", passes(result)
    )
    assert "Warning" not in result.stderr


def test_a_worker_and_the_processes_that_its_tests_start_share_one(project: Project) -> None:
    project.write("tests.py", WORKERS_AND_CHILDREN)
    passes(project.manage("test"))
    passes(project.manage("test", "--parallel", "3"))
    passes(project.manage("test", "--parallel", "3", START_METHOD="spawn"))


def test_without_any_memcached_there_is_nothing_to_start(tmp_path: Path, run: Run) -> None:
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    project = with_runner(Project(tmp_path, run, {"default": local}))
    project.write(
        "tests.py", CLEAN_CACHE.replace('assertIsNone(cache.get("key"))', "assertTrue(1)")
    )
    for method in ("fork", "spawn"):
        result = project.manage("test", "--parallel", "2", START_METHOD=method)
        assert "Ran 16 tests" in result.stderr
        assert "memcached-sandbox" not in result.stdout + result.stderr


def test_options(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    line = passes(project.manage("test", "--memcached-memory", "8"))
    assert line.endswith(" of 8 MB")
    result = project.manage("test", "--memcached-flush", "never")
    assert result.returncode == 1
    assert re.search(r"'Tests\d' is not None", result.stderr)
    assert "--memcached-memory" in project.manage("test", "--help").stdout


def test_evictions_are_pointed_out(project: Project) -> None:
    project.write(
        "tests.py",
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class Tests(SimpleTestCase):\n"
        "    def test(self):\n"
        "        for number in range(100): cache.set(str(number), b'x' * 100_000)\n",
    )
    line = passes(project.manage("test", "--memcached-memory", "4"))
    assert line.endswith("memcached had to evict: raise --memcached-memory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memcached-memory", "0"], "--memcached-memory=0: must be 1 or more"),
        (["--memcached-memory", "x"], "--memcached-memory=x: must be a whole number of MB"),
        (["--memcached-max-item-size=40m"], "must be at most 32 MB, half of --memcached-memory=64"),
        (["--memcached-flush", "class"], "--memcached-flush=class: must be one of test, never"),
        (["MEMCACHED_SANDBOX_MEMORY=lots"], "MEMCACHED_SANDBOX_MEMORY=lots: must be a whole num"),
        (["MEMCACHED_SANDBOX_STRICT=x"], "MEMCACHED_SANDBOX_STRICT=x: must be true or false"),
    ],
)
def test_out_of_range(project: Project, arguments: list[str], message: str) -> None:
    project.write("tests.py", CLEAN_CACHE)
    environment = dict(a.split("=") for a in arguments if a.startswith("MEMCACHED"))
    result = project.manage("test", *arguments * (not environment), **environment)
    assert result.returncode == 1
    assert result.stderr.startswith("CommandError: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


TRIES_MAIN = """
import socket
from django.test import SimpleTestCase
class Tests(SimpleTestCase):
    def test(self):
        try: socket.create_connection(("127.0.0.1", 11211), timeout=1)
        except OSError: pass
"""


def test_strict_and_quiet(project: Project) -> None:
    project.write("tests.py", TRIES_MAIN)
    for arguments, environment, code in (
        ([], {}, 0),
        (["--memcached-strict"], {}, 1),
        (["--memcached-quiet"], {"MEMCACHED_SANDBOX_STRICT": "1"}, 1),
    ):
        result = project.manage("test", *arguments, **environment)
        assert result.returncode == code, result.stderr
        assert "connecting to the main memcached was refused once" in result.stdout
        assert ("peak memory" in result.stdout) is ("--memcached-quiet" not in arguments)
    result = project.sandboxed("--", "./manage.py", "test", "--memcached-strict")
    assert result.returncode == 1


def test_no_memcached(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    result = project.manage("test", MEMCACHED_SANDBOX_BINARY="/no/memcached")
    assert result.returncode == 1
    assert re.fullmatch(r"CommandError: .*'/no/memcached' does not exist.*\n", result.stderr)


class TestRunnerOfTheirOwn:
    @pytest.fixture
    def project(self, tmp_path: Path, run: Run) -> Project:
        alias = {"BACKEND": PYMEMCACHE, "LOCATION": "main"}
        project = Project(
            tmp_path, run, {"default": alias, "dead": {**alias, "LOCATION": "nowhere:1"}}
        )
        project.write("runner.py", OWN_RUNNER)
        project.write("tests.py", CLEAN_CACHE.replace('get("key")', 'get("key")', 1))
        return with_runner(project, 'TEST_RUNNER = "runner.Runner"\n')

    def test_has_servers_before_its_databases(self, project: Project) -> None:
        result = project.manage("test", "--parallel", "2")
        line = passes(result)
        assert line.startswith("336 gets (90.5 % hits), 337 sets")
        assert line.endswith(" of 16 MB in the fullest of 3 servers")
        assert result.stdout.index("their tests") < result.stdout.index("their databases")

    def test_has_the_options_that_it_says(self, project: Project) -> None:
        project.write(
            "tests.py",
            "import socket\n"
            "from django.conf import settings\n"
            "from django.test import SimpleTestCase\n"
            "class Tests(SimpleTestCase):\n"
            "    def test(self):\n"
            "        self.assertEqual(settings.CACHES['dead']['LOCATION'], 'nowhere:1')\n"
            "        with self.assertRaisesMessage(OSError, 'the sandbox refuses'):\n"
            "            socket.create_connection(('localhost', 5))\n",
        )
        result = project.manage("test")
        passes(result)
        assert re.search(
            r"^memcached-sandbox: connecting to the main memcached was refused once "
            r"\(localhost:5\); first to localhost:5 at .*tests\.py:8$",
            result.stdout,
            re.MULTILINE,
        )

    @pytest.mark.parametrize(
        ("right", "wrong", "message"),
        [
            ('"threads": 2', '"memory": 32', "memcached_options: there is no 'memory'"),
            ('["dead"]', '"dead"', "memcached_exclude='dead': must be a list"),
            ('"threads": 2', '"threads": 0', "memcached_options['threads']=0: must be 1 or more"),
            ('"dead"', '"daed"', "the aliases to exclude name 'daed', but the aliases in CACHES"),
        ],
    )
    def test_is_told_of_attributes_that_are_wrong(
        self, project: Project, right: str, wrong: str, message: str
    ) -> None:
        project.write("runner.py", OWN_RUNNER.replace(right, wrong))
        result = project.manage("test")
        assert result.returncode == 1
        assert result.stderr.startswith(f"CommandError: {message}")
        assert len(result.stderr.splitlines()) == 1


def test_under_sandbox_exec_it_joins_that_run(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    for options, servers in ([], ""), (["--parallel", "2"], " in the fullest of 3 servers"):
        result = project.sandboxed("--", "./manage.py", "test", *options)
        assert result.returncode == 0
        assert "gets" not in result.stdout
        line = result.stderr.splitlines()[-1]
        assert line.startswith("sandbox: 336 gets (90.5 % hits), 336 sets")
        assert line.endswith(f" of 64 MB{servers}")


def test_refusals_in_workers_are_told(project: Project) -> None:
    project.write(
        "tests.py",
        "import socket\n"
        "from django.test import SimpleTestCase\n"
        "class A(SimpleTestCase):\n"
        "    def test(self):\n"
        "        with self.assertRaises(ConnectionRefusedError):\n"
        "            socket.create_connection(('127.0.0.1', 11211))\n"
        "class B(A): pass\n",
    )
    for method in ("fork", "spawn"):
        result = project.manage("test", "--parallel", "2", START_METHOD=method)
        assert result.returncode == 0
        assert re.search(
            r"refused 2 times \(127\.0\.0\.1:11211\); first to .*tests\.py:6$",
            result.stdout,
            re.MULTILINE,
        ), result.stdout


def test_refusal_outside_of_tests_has_its_traceback(project: Project) -> None:
    project.write(
        "runner.py",
        "import socket\n"
        "from sandbox.django.runner import SandboxRunner\n"
        "class Runner(SandboxRunner):\n"
        "    def setup_databases(self, **kwargs):\n"
        "        socket.create_connection(('127.0.0.1', 11211))\n",
    )
    result = with_runner(project, 'TEST_RUNNER = "runner.Runner"\n').manage("test")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert 'runner.py", line 5, in setup_databases' in result.stderr
    assert "MainMemcachedRefused: " in result.stderr


def test_failfast(project: Project) -> None:
    project.write(
        "tests.py",
        "from django.test import SimpleTestCase\n"
        + "".join(
            f"class T{number}(SimpleTestCase):\n    def test(self): self.fail()\n"
            for number in range(4)
        ),
    )
    for options in ([], ["--parallel", "2"]):
        result = project.manage("test", "--failfast", *options)
        assert result.returncode == 1
        assert "FAILED (failures=" in result.stderr
        assert "memcached-sandbox: 0 gets" in result.stdout


def test_databases_that_cannot_be_set_up(project: Project) -> None:
    """What is left behind then is nothing, as the fixture of each test sees."""
    settings = (project.folder / "settings.py").read_text()
    project.write("settings.py", settings.replace("django.db.backends.sqlite3", "no.such.engine"))
    project.write("tests.py", CLEAN_CACHE)
    result = project.manage("test")
    assert result.returncode == 1
    assert "no.such.engine" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--parallel", "2"]])
def test_ctrl_c(project: Project, arguments: list[str]) -> None:
    project.write(
        "tests.py",
        "from time import sleep\n"
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class A(SimpleTestCase):\n"
        "    def test(self):\n"
        "        cache.set('key', 1)\n"
        "        print('ready', flush=True)\n"
        "        while not self._outcome.result.shouldStop: sleep(0.01)\n"
        "class B(A): pass\n",
    )
    with spawn(sys.executable, "manage.py", "test", *arguments, cwd=project.folder) as terminal:
        for _ in arguments or ["this process"]:  # each worker, and there are two
            terminal.expect_exact("ready")
        children = psutil.Process(terminal.pid).children(recursive=True)
        assert sum(child.name() == "memcached" for child in children) == 1 + len(arguments)
        terminal.sendcontrol("c")
        terminal.expect(pexpect.EOF)
    wait_until_gone(terminal.pid, *(child.pid for child in children))


def test_killed(project: Project) -> None:
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


def test_a_memcached_that_dies_is_told(project: Project) -> None:
    project.write("tests.py", KILLS_MEMCACHED)
    result = project.manage("test")
    assert result.returncode == 1
    assert "the sandbox's memcached cannot be emptied" in result.stderr


class TestThreeWaysIn:
    """The same suite, without a word of us in it: what it finds is the same in each."""

    SUITE = """
from django.core.cache import cache, caches
from django.test import TestCase

class Tests(TestCase):
    @classmethod
    def setUpTestData(cls): cache.set("class", 1)
    def test_1(self):
        cache.set("1", 1)
        caches["other"].set("1", 1)
        self.assertIsNone(cache.get("2"))
    def test_2(self):
        cache.set("2", 1)
        self.assertIsNone(cache.get("1"))
        self.assertIsNone(caches["other"].get("1"))
        self.assertIsNone(cache.get("class"))
    def test_3(self):
        self.assertEqual(cache.incr("2"), 2)

class Kept(TestCase):
    keep_cache = True
    def test_1(self): cache.set("kept", 1)
    def test_2(self): self.assertEqual(cache.get("kept"), 1)
"""

    def test_same_result(self, tmp_path: Path, run: Run) -> None:
        alias = {"BACKEND": PYMEMCACHE, "LOCATION": "main"}
        project = Project(
            tmp_path, run, {"default": alias, "other": {**alias, "LOCATION": "other"}}
        )
        project.write("tests.py", self.SUITE)
        by_exec = project.sandboxed("--", "./manage.py", "test")
        by_plugin = project.pytest("--memcached-sandbox", "tests.py")
        by_runner = project.manage("test", "--testrunner=sandbox.django.runner.SandboxRunner")
        counted = r"\d+ gets \(.*?\), \d+ sets, 0 evictions, peak memory .* in the fullest of 2 s.*"
        lines = {
            re.search(counted, result.stdout + result.stderr)[0]
            for result in (by_exec, by_plugin, by_runner)
        }
        assert len(lines) == 1
        for result in (by_exec, by_runner):
            assert "Ran 5 tests" in result.stderr
            assert "FAILED (errors=1)" in result.stderr
            assert "ERROR: test_3 (tests.Tests" in result.stderr
        assert "1 failed, 4 passed" in by_plugin.stdout
        assert "FAILED tests.py::Tests::test_3" in by_plugin.stdout


def test_django_is_left_as_it_was(
    project: Project, main_memcached: MainMemcached, run: Run
) -> None:
    project.write("tests.py", CLEAN_CACHE)
    project.write(
        "twice.py",
        "import os, sys, unittest\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\n"
        "import django\n"
        "from django.conf import settings\n"
        "from django.test.utils import get_runner\n"
        "def state():\n"
        "    locations = settings.CACHES['default']['LOCATION']\n"
        "    return locations, dict(os.environ), [*sys.meta_path], unittest.TestCase.__call__\n"
        "if __name__ == '__main__':  # forkserver imports it again\n"
        "    django.setup()\n"
        "    before = state()\n"
        "    for parallel in (0, 2):\n"
        "        assert get_runner(settings)(parallel=parallel).run_tests([]) == 0\n"
        "        assert state() == before\n"
        "    print('main:', before[0])\n",
    )
    result = run(sys.executable, "twice.py", cwd=project.folder)
    assert result.stdout.splitlines()[-1] == f"main: {main_memcached.address}", result.stderr
