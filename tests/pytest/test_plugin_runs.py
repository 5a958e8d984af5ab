"""Runs of pytest with the plugin on: flushing, workers, nesting, reports, and how they end."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import psutil
import pytest
from django.test import override_settings

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import eventually, spawn, wait_until_gone
from ..helpers.projects import (
    PYMEMCACHE,
    InProcess,
    MakeProject,
    Project,
    header,
    passed,
    pytest_command,
    summary,
)
from ..helpers.suites import CLEAN_CACHE, POISON, SITES


@pytest.fixture
def project(tmp_path: Path, run: Run, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project whose tests run in a sandbox, and whose main memcached must not be touched."""
    project = Project(tmp_path, run, main_memcached.address)
    ini = (project.folder / "pytest.ini").read_text()
    project.write("pytest.ini", f"{ini}memcached_sandbox = true\n")
    yield project
    main_memcached.assert_untouched()


# What a test finds, and what it leaves: the names of those before it since the last flush.
TRAIL = """
import pytest
from django.core.cache import cache

def visit(request):
    trail = cache.get("trail", [])
    cache.set("trail", [*trail, request.node.name])
    print("trail", request.node.name, *trail)

class TestA:
    def test_a1(self, request): visit(request)
    def test_a2(self, request): visit(request)
class TestB:
    def test_b1(self, request): visit(request)
def test_c(request): visit(request)
def test_d(request): visit(request)
"""


def trails(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert passed(result)
    return re.findall(r"trail (.*)", result.stdout)


class TestFlush:
    @pytest.mark.parametrize(
        ("scope", "expected"),
        [
            ("test", ["a1", "a2", "b1", "c", "d", "e"]),
            ("class", ["a1", "a2 a1", "b1", "c", "d", "e"]),
            ("module", ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c", "e"]),
            (
                "session",
                ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c", "e a1 a2 b1 c d"],
            ),
            (
                "never",
                ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c", "e a1 a2 b1 c d"],
            ),
        ],
    )
    @pytest.mark.parametrize("where", ["--memcached-sandbox-flush=", "-omemcached_sandbox_flush="])
    def test_after(
        self, django_in_process: InProcess, scope: str, expected: list[str], where: str
    ) -> None:
        django_in_process.write("test_1.py", TRAIL)
        django_in_process.write(
            "test_2.py", "from test_1 import visit\ndef test_e(request): visit(request)\n"
        )
        names = [re.sub(r"(\w+)", r"test_\1", trail) for trail in expected]
        assert trails(django_in_process.pytest("-s", f"{where}{scope}")) == names

    def test_at_the_end_of_the_session_or_never(self, project: Project) -> None:
        """It matters to what comes after pytest, in the same `sandbox exec`."""
        project.write("test_1.py", TRAIL)
        project.write(
            "left.py",
            "import os\n"
            "from pymemcache import Client\n"
            "client = Client(os.environ['MEMCACHED_SANDBOX_ADDRESS'])\n"
            "print('left:', client.get(':1:trail') is not None)\n",
        )
        pytest = shlex.join(pytest_command("-q"))
        scopes = [f"{pytest} --memcached-sandbox-flush={scope}" for scope in ("never", "session")]
        result = project.sandboxed("--", "sh", "-c", "; python left.py; ".join([*scopes, "true"]))
        left = re.findall("left: (.*)", result.stdout)
        assert left == ["True", "False"], result.stdout + result.stderr

    def test_markers(self, django_in_process: InProcess) -> None:
        django_in_process.write(
            "test_1.py",
            TRAIL.replace("class TestA", "@pytest.mark.keep_cache('class')\nclass TestA")
            .replace("def test_c", "@pytest.mark.keep_cache\ndef test_c")
            .replace("class TestB", "@pytest.mark.keep_cache('module')\nclass TestB"),
        )
        django_in_process.write(
            "test_2.py", "from test_1 import visit\ndef test_e(request): visit(request)\n"
        )
        assert trails(django_in_process.pytest("-s", "--strict-markers")) == [
            "test_a1",
            "test_a2 test_a1",
            "test_b1",
            "test_c test_b1",
            "test_d test_b1 test_c",
            "test_e",
        ]

    @pytest.mark.parametrize(
        ("arguments", "given"), [("'clas'", "'clas'"), ("until='class'", "until='class'")]
    )
    def test_a_marker_that_is_misspelled(
        self, in_process: InProcess, arguments: str, given: str
    ) -> None:
        in_process.write(
            "test_1.py", f"import pytest\n@pytest.mark.keep_cache({arguments})\ndef test(): pass\n"
        )
        result = in_process.pytest()
        assert result.returncode == 4
        assert (
            "ERROR: test_1.py::test: keep_cache takes 'class', 'module', 'session' or nothing, "
            f"but got {given}\n"
        ) in result.stderr + result.stdout

    def test_order_of_fixtures_database_and_flush(self, project: Project) -> None:
        """A test's fixtures end, the database is rolled back, and then the caches are emptied."""
        settings = (project.folder / "settings.py").read_text()
        project.write("settings.py", settings + "INSTALLED_APPS = ['django.contrib.sites']\n")
        project.write(
            "test_it.py",
            "import pytest\n"
            "from django.contrib.sites.models import Site\n"
            "from django.core.cache import cache\n"
            "@pytest.fixture\n"
            "def mine(db):\n"
            "    assert cache.get('mine') is None\n"
            "    yield\n"
            "    assert cache.get('test') == Site.objects.get(domain='a.org').pk\n"
            "    cache.set('mine', 1)\n"
            "@pytest.mark.parametrize('number', range(3))\n"
            "def test(mine, number):\n"
            "    assert Site.objects.filter(domain='a.org').count() == 0\n"
            "    assert cache.get('test') is None\n"
            "    cache.set('test', Site.objects.create(domain='a.org').pk)\n"
            "@pytest.mark.django_db(transaction=True)\n"
            "def test_transaction(mine):\n"
            "    cache.set('test', Site.objects.create(domain='a.org').pk)\n"
            "def test_clean(): assert cache.get('mine') is cache.get('test') is None\n",
        )
        assert passed(project.pytest()) == 5

    @pytest.mark.parametrize("scope", ["class", "module"])
    def test_what_a_wider_fixture_fills_can_be_kept(
        self, django_in_process: InProcess, scope: str
    ) -> None:
        tests = (
            "import pytest\n"
            "from django.core.cache import cache\n"
            f"@pytest.fixture(scope='{scope}')\n"
            "def filled(): cache.set('filled', 1)\n"
            f"@pytest.mark.keep_cache('{scope}')\n"
            "class TestKept:\n"
            "    def test_1(self, filled): assert cache.get('filled') == 1\n"
            "    def test_2(self, filled): assert cache.get('filled') == 1\n"
        )
        django_in_process.write("test_1.py", tests)
        django_in_process.write(
            "test_2.py",
            "from django.core.cache import cache\ndef test(): assert not cache.get('filled')\n",
        )
        assert passed(django_in_process.pytest()) == 3
        django_in_process.write("test_1.py", tests.replace("@pytest.mark", "keep = pytest.mark"))
        assert "1 failed, 2 passed" in django_in_process.pytest().stdout

    def test_with_the_attribute_of_unittest(self, project: Project) -> None:
        project.write("test_it.py", CLEAN_CACHE)
        project.write(
            "test_kept.py",
            "from django.core.cache import cache\n"
            "from django.test import SimpleTestCase\n"
            "class Tests(SimpleTestCase):\n"
            "    keep_cache = True\n"
            "    def test_1(self): cache.set('a', 1)\n"
            "    def test_2(self): assert cache.get('a') == 1\n",
        )
        assert passed(project.pytest()) == 18


class TestWorkers:
    @pytest.mark.parametrize(
        ("arguments", "workers"),
        [
            (["-n2"], 2),
            # Workers that -n does not count.
            (["--dist=load", "--tx=popen", f"--tx=popen//python={sys.executable}"], 2),
        ],
    )
    def test_each_has_servers_of_its_own(
        self, project: Project, arguments: list[str], workers: int
    ) -> None:
        for number in range(2):
            project.write(f"test_{number}.py", CLEAN_CACHE)
        result = project.pytest("-Werror", *arguments)
        assert passed(result) == 32
        # pytest-django loads Django in the controller as well.
        assert summary(result).endswith(f"in the fullest of {workers + 1} servers")
        assert re.search(r"^672 gets \(90.5 % hits\), 672 sets,", summary(result))
        assert re.fullmatch(
            r"64 MB, \S+ in place of \S+, and others on each worker", header(result)
        )

    def test_each_runs_all(self, project: Project) -> None:
        project.write("test_it.py", CLEAN_CACHE)
        result = project.pytest("--dist=each", "--tx=2*popen")
        assert passed(result) == 32
        assert summary(result).startswith("672 gets (90.5 % hits), 672 sets,")

    def test_a_controller_without_django_has_none(self, plain: Project) -> None:
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

    def test_options_reach_them(self, plain: Project) -> None:
        plain.write(
            "test_it.py",
            "def test(memcached): assert memcached.stats()['limit_maxbytes'] == str(8 << 20)\n",
        )
        assert passed(plain.pytest("-n1", "--memcached-sandbox-memory=8")) == 1

    def test_one_that_is_killed(self, project: Project) -> None:
        """It takes its servers with it, and another takes its place."""
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


class TestIsolation:
    @pytest.fixture
    def poisoned(self, project: Project) -> Project:
        project.write("settings.py", (project.folder / "settings.py").read_text() + SITES)
        project.write("test_poison.py", POISON)
        return project

    def test_a_suite_that_fails_without_it(self, poisoned: Project) -> None:
        result = poisoned.pytest("--memcached-sandbox-flush=never")
        assert "4 failed, 1 passed" in result.stdout

    def test_a_suite_that_passes_with_it(self, poisoned: Project) -> None:
        assert passed(poisoned.pytest()) == 5


class TestNesting:
    def test_pytest_forked(self, project: Project) -> None:
        project.write("test_nothing.py", "def test(): pass\n")
        if project.pytest("--forked", "-pno:memcached_sandbox", "-pno:django").returncode:
            pytest.skip("this pytest-forked does not go with this pytest, with or without us")
        (project.folder / "test_nothing.py").unlink()
        project.write("test_it.py", CLEAN_CACHE)
        project.write(
            "test_reach.py",
            "import socket\n"
            "def test_reaches():\n"
            "    try: socket.create_connection(('127.0.0.1', 11211))\n"
            "    except OSError: pass\n"
            "def test_does_not(): pass\n",
        )
        result = project.pytest("--forked", "-Wdefault")
        assert "1 failed, 17 passed" in result.stdout, result.stdout
        assert "FAILED test_reach.py::test_reaches" in result.stdout
        assert "fork() may lead to deadlocks" not in result.stdout
        assert summary(result).startswith("336 gets (90.5 % hits), 336 sets")

    @pytest.mark.parametrize(
        ("outer", "fixture", "header"),
        [("true", "memcached", "in the run"), ("false", "pytester", "64 MB")],
    )
    def test_pytester_in_process(
        self, plain: Project, outer: str, fixture: str, header: str
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

    def test_under_sandbox_exec_it_joins_that_run(self, project: Project) -> None:
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

    def test_exclude_and_guard_hold_there_as_well(self, make_project: MakeProject) -> None:
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

    def test_with_no_inject_it_joins_all_the_same(self, project: Project) -> None:
        project.write("test_it.py", CLEAN_CACHE)
        result = project.sandboxed("--no-inject", "--", *pytest_command())
        assert passed(result) == 16
        assert "336 gets" in result.stderr

    def test_children_of_a_test_share_its_cache(self, project: Project) -> None:
        project.write(
            "test_it.py",
            "import multiprocessing, subprocess, sys\n"
            "import pytest\n"
            "from django.core.cache import cache\n"
            "READ = 'from django.core.cache import cache; print(cache.get(\"key\"))'\n"
            "def read(pipe): pipe.send(cache.get('key'))\n"
            "@pytest.mark.parametrize('value', ['one', 'two'])\n"
            "def test_command(value):\n"
            "    assert cache.add('key', value)\n"
            "    output = subprocess.check_output([sys.executable, '-c', READ], text=True)\n"
            "    assert output == f'{value}\\n'\n"
            "@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])\n"
            "def test_multiprocessing(method):\n"
            "    assert cache.add('key', method)\n"
            "    context = multiprocessing.get_context(method)\n"
            "    here, there = context.Pipe()\n"
            "    child = context.Process(target=read, args=[there])\n"
            "    child.start()\n"
            "    assert here.recv() == method\n"
            "    child.join()\n",
        )
        assert passed(project.pytest(DJANGO_SETTINGS_MODULE="settings")) == 5
        assert passed(project.pytest("-n2", DJANGO_SETTINGS_MODULE="settings")) == 5

    def test_a_child_with_other_caches_is_told_what_to_do(self, project: Project) -> None:
        project.write(
            "test_it.py",
            "import subprocess, sys\n"
            "SCRIPT = '''\n"
            "from django.conf import settings\n"
            "backend = 'django.core.cache.backends.memcached.PyMemcacheCache'\n"
            "settings.configure(CACHES={'default': {'BACKEND': backend, 'LOCATION': 'other:5'}})\n"
            "'''\n"
            "def test():\n"
            "    command = [sys.executable, '-c', SCRIPT]\n"
            "    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)\n"
            "    assert 'sandbox: there is no server for other:5 in the sandbox' in result.stderr\n"
            "    assert result.returncode == 1\n",
        )
        assert passed(project.pytest()) == 1

    def test_a_child_without_django_in_its_parent(self, plain: Project) -> None:
        plain.write(
            "test_it.py",
            "import subprocess, sys\n"
            "SET = 'from django.core.cache import cache; cache.set(\"key\", 1)'\n"
            "def test(memcached):\n"
            "    subprocess.check_call([sys.executable, '-c', SET])\n"
            "    assert [item.key for item in memcached.items()] == [':1:key']\n"
            "def test_empty(memcached): assert memcached.items() == []\n",
        )
        assert passed(plain.pytest(DJANGO_SETTINGS_MODULE="settings")) == 2


class TestReports:
    def test_header_and_summary(self, project: Project, main_memcached: MainMemcached) -> None:
        project.write("test_it.py", CLEAN_CACHE)
        # With pytest-xdist, as most have it: without -n it distributes nothing.
        result = project.pytest("-n0", "--memcached-sandbox-memory=32")
        assert re.fullmatch(
            rf"32 MB, 127\.0\.0\.1:\d+ in place of {main_memcached.address}", header(result)
        )
        assert re.fullmatch(
            r"336 gets \(90\.5 % hits\), 336 sets, 0 evictions, peak memory \d\.\d of 32 MB",
            summary(result),
        )

    def test_evictions_are_pointed_out(self, django_in_process: InProcess) -> None:
        django_in_process.write(
            "test_it.py",
            "from django.core.cache import cache\n"
            "def test():\n"
            "    for number in range(100): cache.set(str(number), b'x' * 100_000)\n",
        )
        result = django_in_process.pytest("--memcached-sandbox-memory=4")
        assert re.search(r", \d+ evictions, .* raise --memcached-sandbox-memory$", summary(result))

    @pytest.mark.parametrize(
        ("count", "shown"), [(0, "no items"), (3, "k02"), (20, "k19"), (21, "and 1 more")]
    )
    def test_what_the_cache_held_when_a_test_failed(
        self, django_in_process: InProcess, count: int, shown: str
    ) -> None:
        django_in_process.write(
            "test_it.py",
            "from django.core.cache import cache\n"
            "def test_fails():\n"
            f"    for number in range({count}):\n"
            "        cache.set(f'k{number:02}', 'v' * number, None if number else 9999)\n"
            "    assert not 'it'\n"
            "def test_passes(): cache.set('other', 1)\n",
        )
        result = django_in_process.pytest()
        assert "1 failed, 1 passed" in result.stdout
        section = re.search(r"^-+ memcached at \S+, in place of \S+ -+\n(.*?)^memc", result.stdout,
                            re.MULTILINE | re.DOTALL)[1].splitlines()  # fmt: skip
        assert shown in section[-1]
        assert len(section) == min(count, 20) + (count > 20) + (count == 0)
        if count:
            assert re.fullmatch(r":1:k00 +\d+ bytes, expires in 9\d{3} s", section[0])
        if count > 1:
            assert re.fullmatch(r":1:k01 +\d+ bytes, expires never", section[1])

    @pytest.mark.parametrize("under", [[], ["sandbox", "exec", "--"]])
    def test_a_test_that_reached_for_the_main_memcached_fails(
        self, project: Project, run: Run, main_memcached: MainMemcached, under: list[str]
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
    def test_one_outside_of_any_test_is_told(self, project: Project, arguments: list[str]) -> None:
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

    def test_a_memcached_that_dies(self, project: Project) -> None:
        """No test can be trusted any more: the session ends, and says why."""
        project.write(
            "test_it.py",
            "import os, signal\n"
            "def test_1(): os.kill(int(os.environ['MEMCACHED_SANDBOX_PID']), signal.SIGKILL)\n"
            "def test_2(): pass\n",
        )
        result = project.pytest()
        assert result.returncode == 2
        assert "the sandbox's memcached cannot be emptied" in result.stdout
        assert "1 passed" in result.stdout
        assert re.search(
            r"^memcached-sandbox: memcached at \S+ was killed by signal 9", result.stdout,
            re.MULTILINE,
        )  # fmt: skip

    @override_settings(
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "other": {"BACKEND": PYMEMCACHE, "LOCATION": ["a:1", "b:1"]},
        }
    )
    def test_default_is_no_memcached(self, in_process: InProcess) -> None:
        in_process.write(
            "test_it.py",
            "def test_default(memcached): pass\n"
            "def test_other(memcached_sandbox): assert len(memcached_sandbox['other']) == 2\n",
        )
        result = in_process.pytest()
        assert "1 passed, 1 error" in result.stdout
        assert (
            "CACHES['default'] is not at a memcached of the sandbox, but others are: "
            "memcached_sandbox['other']"
        ) in result.stdout


SLOW = """
import os
from pathlib import Path
from threading import Event
from django.core.cache import cache
def test(memcached):
    cache.set("key", "value")
    Path("pids").write_text(memcached.stats()["pid"])
    print("ready", flush=True)
    Event().wait()
"""


@contextmanager
def slow_run(project: Project) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A run of pytest within its test, and the processes that it has started."""
    project.write("test_it.py", SLOW)
    with subprocess.Popen(
        pytest_command("-s"), cwd=project.folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        yield process, psutil.Process(process.pid).children(recursive=True)


class TestEnd:
    def test_killed(self, project: Project) -> None:
        with slow_run(project) as (process, children):
            process.kill()
        assert len(children) == 2  # memcached and the reaper
        wait_until_gone(*(child.pid for child in children))

    @pytest.mark.parametrize("arguments", [["-s"], ["-n2"]])
    def test_ctrl_c(self, project: Project, arguments: list[str]) -> None:
        project.write("test_it.py", SLOW)
        with spawn(*pytest_command(*arguments), cwd=project.folder) as terminal:
            if arguments == ["-s"]:
                terminal.expect_exact("ready")
            else:
                terminal.expect_exact("2 workers [1 item]")
                eventually((project.folder / "pids").exists)
            children = psutil.Process(terminal.pid).children(recursive=True)
            terminal.sendcontrol("c")
            terminal.expect_exact("KeyboardInterrupt")
            terminal.expect(pexpect.EOF)
        assert terminal.signalstatus is None
        assert terminal.exitstatus == 2
        assert len(children) >= 2
        wait_until_gone(*(child.pid for child in children))

    def test_refusal_in_settings_has_its_traceback(self, project: Project) -> None:
        settings = (project.folder / "settings.py").read_text()
        connect = "import socket\nsocket.create_connection(('127.0.0.1', 11211))\n"
        project.write("settings.py", settings + connect)
        result = project.pytest()
        assert result.returncode != 0
        assert "Traceback" in result.stderr
        assert "settings.py" in result.stderr
        assert "MainMemcachedRefused: " in result.stderr

    def test_a_signal_ends_it(self, project: Project) -> None:
        with slow_run(project) as (process, children):
            process.send_signal(signal.SIGTERM)
            assert process.wait() == -signal.SIGTERM
        wait_until_gone(*(child.pid for child in children))
