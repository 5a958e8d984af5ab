"""`sandbox exec` on projects that have never heard of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import Sandbox
from sandbox.inject import FOLDER
from sandbox.run.control import Control
from sandbox.run.environment import Injection, injection_variables

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import without_coverage
from ..helpers.projects import PYMEMCACHE, MakeProject, Project, pytest_command, stripped_bookshop
from ..helpers.suites import CLEAN_CACHE, KILLS_MEMCACHED, START_METHODS, WORKERS_AND_CHILDREN


@pytest.fixture
def project(make_project: MakeProject, main_memcached: MainMemcached) -> Project:
    """A project on a main memcached, which must not be connected to once."""
    yield make_project(main_memcached.address)
    main_memcached.assert_untouched()


def servers_of(result) -> int:
    """How many servers the run had, as its summary says."""
    match = re.search(r"in the fullest of (\d+) servers$", result.stderr.rstrip())
    return int(match[1]) if match else 1


each_runner = pytest.mark.parametrize(
    "runner", [["./manage.py", "test"], pytest_command()], ids=["manage.py", "pytest"]
)


class TestBookshop:
    def test_serially(self, run: Run, main_memcached: MainMemcached, tmp_path: Path) -> None:
        bookshop = stripped_bookshop(tmp_path)
        result = run(
            "sandbox", "exec", "--", "./manage.py", "test",
            cwd=bookshop, MEMCACHED=main_memcached.address,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        main_memcached.assert_untouched()

    def test_in_parallel(self, run: Run, main_memcached: MainMemcached, tmp_path: Path) -> None:
        result = run(
            "sandbox", "exec", "--", "./manage.py", "test", "--parallel", "4",
            cwd=stripped_bookshop(tmp_path), MEMCACHED=main_memcached.address,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert servers_of(result) >= 3
        main_memcached.assert_untouched()


class TestEmptyCaches:
    @pytest.mark.parametrize("start_method", START_METHODS)
    def test_with_every_start_method(self, project: Project, start_method: str) -> None:
        project.write("tests.py", CLEAN_CACHE)
        result = project.test("--parallel", "3", START_METHOD=start_method)
        assert servers_of(result) == 4

    def test_serially(self, project: Project) -> None:
        project.write("tests.py", CLEAN_CACHE)
        assert servers_of(project.test()) == 1

    @pytest.mark.parametrize("arguments", [[], ["-n", "2"]])
    def test_with_pytest(self, project: Project, arguments: list[str]) -> None:
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

    def test_plain_pytest_in_parallel_without_django(self, project: Project) -> None:
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

    def test_plain_unittest_without_django(self, project: Project) -> None:
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
    def test_once_after_each_test(self, project: Project, runner: list[str]) -> None:
        """Not once for Django, once for unittest, and once for pytest."""
        project.write("test_clean.py", CLEAN_CACHE)
        read = (
            "import os; from pymemcache import Client;"
            "print(Client(os.environ['MEMCACHED_SANDBOX_ADDRESS']).stats()[b'cmd_flush'])"
        )
        script = f'{shlex.join(runner)} && python -c "{read}"'
        result = project.sandboxed("--", "sh", "-c", script)
        assert result.stdout.splitlines()[-1] == "16", result.stderr

    def test_not_with_flush_never(self, project: Project) -> None:
        project.write("tests.py", CLEAN_CACHE)
        result = project.sandboxed("--flush", "never", "--", "./manage.py", "test")
        assert result.returncode == 1
        assert re.search(r"'Tests\d' is not None", result.stderr)

    @each_runner
    def test_not_after_what_asks_to_keep_the_cache(
        self, project: Project, runner: list[str]
    ) -> None:
        project.write(
            "test_keep.py",
            "from django.core.cache import cache\n"
            "from django.test import SimpleTestCase\n"
            "class A(SimpleTestCase):\n"
            "    keep_cache = True\n"
            "    def test_a(self): cache.set('a', 1)\n"
            "    def test_b(self): assert cache.get('a') == 1\n"
            "class B(SimpleTestCase):\n"
            "    def test_a(self): assert cache.get('a') == 1\n"
            "    def test_b(self):\n"
            "        assert cache.get('a') is None\n"
            "        cache.set('b', 1)\n"
            "    test_b.keep_cache = True\n"
            "    def test_c(self): assert cache.get('b') == 1\n"
            "    def test_d(self): assert cache.get('b') is None\n",
        )
        result = project.sandboxed("--", *runner)
        assert result.returncode == 0, result.stdout + result.stderr

    def test_what_a_class_sets_up_lives_until_the_end_of_its_first_test(
        self, project: Project
    ) -> None:
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


SHOW_LOCATIONS = (
    "from django.conf import settings\n"
    "for alias, config in settings.CACHES.items(): print(alias, config.get('LOCATION'))\n"
)


class TestRepointing:
    @pytest.mark.parametrize(
        "command",
        [
            "./manage.py shell -c '{}'",
            "django-admin shell --settings settings --pythonpath . -c '{}'",
            "python -m django shell --settings settings --pythonpath . -c '{}'",
            "python -c 'import settings as s; from django.conf import settings as t\n"  # noqa: ISC004
            "t.configure(CACHES=s.CACHES)\n{}'",
        ],
    )
    def test_each_road_to_settings(self, project: Project, command: str) -> None:
        script = SHOW_LOCATIONS.replace("'LOCATION'", '"LOCATION"')
        result = project.sandboxed("-v", "--", "sh", "-c", command.format(script))
        address = re.search(r"memcached at (\S+),", result.stderr)[1]
        assert f"default {address}\n" in result.stdout, result.stderr

    def test_all_processes_of_a_run_share_one_cache(self, project: Project) -> None:
        project.write(
            "twice.sh",
            "#!/bin/sh\n"
            "export DJANGO_SETTINGS_MODULE=settings\n"
            'run() { python -c "from django.core.cache import cache; $1"; }\n'
            "run 'cache.set(1, 5)'\n"
            "run 'print(cache.get(1))'\n",
        )
        result = project.sandboxed("--", "./twice.sh")
        assert result.stdout == "5\n", result.stderr

    def test_a_worker_and_the_processes_that_its_tests_start_share_one(
        self, project: Project
    ) -> None:
        project.write("tests.py", WORKERS_AND_CHILDREN)
        project.test()
        project.test("--parallel", "3")

    @pytest.mark.parametrize(
        ("locations", "servers"),
        [
            (["a", "A:11211"], 1),
            (["a:1", ["b:1", "a:1", "c:1"]], 3),
            (["a:1;b:1", "unix:/run/m.sock"], 3),
        ],
    )
    def test_one_server_for_each_address(
        self, make_project: MakeProject, locations: list[Any], servers: int
    ) -> None:
        names = ["default", "other"]
        project = make_project(
            {
                alias: {"BACKEND": PYMEMCACHE, "LOCATION": location, "KEY_PREFIX": alias}
                for alias, location in zip(names, locations, strict=True)
            }
        )
        project.write(
            "tests.py",
            "from django.core.cache import caches\n"
            "from django.test import SimpleTestCase\n"
            "class Tests(SimpleTestCase):\n"
            "    def test(self):\n"
            "        for alias in caches:\n"
            "            for n in range(30): caches[alias].set(str(n), n)\n"
            "            self.assertEqual(len(caches[alias].get_many(map(str, range(30)))), 30)\n"
            "    test_again = test\n",
        )
        assert servers_of(project.test()) == servers

    def test_unclear_backends_are_known_when_they_connect(self, make_project: MakeProject) -> None:
        """At settings time nothing is imported: neither path nor LOCATION tells what this is."""
        project = make_project({"default": {"BACKEND": "odd.Odd", "LOCATION": "main"}})
        project.write(
            "odd.py",
            "from django.core.cache.backends.memcached import PyMemcacheCache\n"
            "class Odd(PyMemcacheCache): pass\n",
        )
        project.write("tests.py", CLEAN_CACHE)
        project.test()

    def test_override_settings_with_a_main_address(
        self, project: Project, main_memcached: MainMemcached
    ) -> None:
        project.write(
            "tests.py",
            "from django.core.cache import cache\n"
            "from django.test import SimpleTestCase, override_settings\n"
            f"MAIN = {main_memcached.address!r}\n"
            "class Tests(SimpleTestCase):\n"
            f"    @override_settings(CACHES={{'default': {{'BACKEND': {PYMEMCACHE!r},\n"
            "        'LOCATION': MAIN, 'KEY_PREFIX': 'x'}})\n"
            "    def test(self):\n"
            "        self.assertTrue(cache.add('key', 'value'))\n",
        )
        project.test()

    def test_an_address_of_nobody_is_left_alone(self, project: Project) -> None:
        project.write(
            "tests.py",
            "from django.core.cache import cache\n"
            "from django.test import SimpleTestCase, override_settings\n"
            f"NOWHERE = {{'default': {{'BACKEND': {PYMEMCACHE!r}, 'LOCATION': '127.0.0.1:9'}}}}\n"
            "class Tests(SimpleTestCase):\n"
            "    @override_settings(CACHES=NOWHERE)\n"
            "    def test(self):\n"
            "        with self.assertRaises(ConnectionRefusedError): cache.get('key')\n",
        )
        result = project.test()
        assert "refused" not in result.stderr

    def test_excluded(self, make_project: MakeProject) -> None:
        alias = {"BACKEND": PYMEMCACHE, "LOCATION": "main"}
        project = make_project({"default": alias, "dead": {**alias, "LOCATION": "nowhere:1"}})
        show = ["./manage.py", "shell", "-c", SHOW_LOCATIONS]
        result = project.sandboxed("--exclude", "dead", "--", *show)
        assert "dead nowhere:1\n" in result.stdout
        assert "default main\n" not in result.stdout
        result = project.sandboxed("--exclude", "daed", "--", *show)
        assert (
            "the aliases to exclude name 'daed', but the aliases in CACHES are 'default', 'dead'"
            in result.stderr
        )
        assert result.returncode == 1

    def test_no_inject(self, project: Project, main_memcached: MainMemcached) -> None:
        result = project.sandboxed(
            "--no-inject", "--", "./manage.py", "shell", "-c", SHOW_LOCATIONS
        )
        assert f"default {main_memcached.address}\n" in result.stdout

    def test_no_inject_and_settings_that_say_so_themselves(self, project: Project) -> None:
        settings = (project.folder / "settings.py").read_text()
        helped = settings.replace("CACHES = ", "CACHES = sandboxed(") + ")\n"
        project.write("settings.py", "from sandbox.django import sandboxed\n" + helped)
        result = project.sandboxed(
            "-v", "--no-inject", "--", "./manage.py", "shell", "-c", SHOW_LOCATIONS
        )
        address = re.search(r"memcached at (\S+),", result.stderr)[1]
        assert f"default {address}\n" in result.stdout

    def test_several_servers_for_those_who_are_not_django(self, project: Project) -> None:
        result = project.sandboxed(
            "--servers",
            "2",
            "--env",
            "URLS={address1},{address2},{port2}",
            "--",
            "printenv",
            "URLS",
        )
        first, second, port = result.stdout.rstrip().split(",")
        assert first != second == f"127.0.0.1:{port}"
        result = project.sandboxed("--servers", "2", "--env", "URL={address3}", "--", "true")
        assert "{address3} in 'URL={address3}' is none of {address}" in result.stderr
        assert result.returncode == 2

    def test_url_of_twelve_factor_settings_in_parallel(self, make_project: MakeProject) -> None:
        project = make_project("PLACE")
        settings = (project.folder / "settings.py").read_text()
        project.write(
            "settings.py", "import os\n" + settings.replace("'PLACE'", "os.environ['CACHE_URL']")
        )
        project.write("tests.py", CLEAN_CACHE)
        for arguments in ([], ["--parallel", "3"]):
            result = project.sandboxed(
                "--env", "CACHE_URL={address}", "--", "./manage.py", "test", *arguments
            )
            assert result.returncode == 0, result.stderr

    def test_sandboxed_in_settings_may_stay(self, project: Project) -> None:
        settings = (project.folder / "settings.py").read_text()
        project.write(
            "settings.py",
            "from sandbox.django import sandboxed\n"
            + settings.replace("CACHES = ", "CACHES = sandboxed(")
            + ")\n",
        )
        project.write("tests.py", CLEAN_CACHE)
        assert servers_of(project.test()) == 1
        assert servers_of(project.test("--parallel", "2")) == 3


def test_settings_cost_one_round_trip(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": ["a:1", "b:1"]}
    project = make_project({"default": alias, "other": {**alias, "LOCATION": "c:1;a:1"}})
    requests = []
    monkeypatch.setattr(
        Control,
        "_answer",
        lambda self, request, answer=Control._answer: (
            requests.append(request) or answer(self, request)
        ),
    )
    with Sandbox() as sandbox:
        control = Control(sandbox, str(tmp_path / "control"))
        injected = injection_variables(os.environ, Injection([], "test", []))
        script = "from django.core.cache import caches; [caches[a].get('key') for a in caches]"
        result = project._run(
            sys.executable, "manage.py", "shell", "-c", script,
            cwd=project.folder, MEMCACHED_SANDBOX_CONTROL=control.path, **injected,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        control.stop()
    assert requests == [{"resolve": ["a:1", "b:1", "c:1", "a:1"], "worker": ""}]


def test_a_run_within_a_run_has_servers_of_its_own(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    show = "from django.core.cache import cache; print(cache.get_or_set('depth', {}))"
    result = project.sandboxed(
        "--", "sh", "-c",
        f"""
        python -c "{show.format("'outer'")}"
        sandbox exec -- python -c "{show.format("'inner'")}"
        sandbox exec -- ./manage.py test --parallel 2
        python -c "{show.format("'again'")}"
        """,
        DJANGO_SETTINGS_MODULE="settings",
    )  # fmt: skip
    assert result.stdout.split("\n")[:2] == ["outer", "inner"], result.stderr
    assert result.stdout.rstrip().endswith("outer")


class TestWorkers:
    @pytest.mark.parametrize("start_method", START_METHODS)
    def test_custom_runner_and_suite(self, project: Project, start_method: str) -> None:
        project.write(
            "runner.py",
            "from django.test import runner\n"
            "def init_worker(*args, **kwargs):\n"
            "    runner._init_worker(*args, **kwargs)\n"
            "class Suite(runner.ParallelTestSuite):\n"
            "    init_worker = init_worker\n"
            "class Runner(runner.DiscoverRunner):\n"
            "    parallel_test_suite = Suite\n",
        )
        with (project.folder / "settings.py").open("a") as settings:
            settings.write("TEST_RUNNER = 'runner.Runner'\n")
        project.write("tests.py", CLEAN_CACHE)
        assert servers_of(project.test("--parallel", "2", START_METHOD=start_method)) == 3

    def test_connections_that_a_worker_inherited_are_not_used_by_it(self, project: Project) -> None:
        """Neither those of Django's caches, nor of a backend object that someone has kept."""
        project.write(
            "kept.py",
            "from django.core.cache import cache, caches\n"
            "kept = caches['default']\n"
            "kept.get('connect')\n"
            "main = kept._cache\n",
        )
        project.write(
            "tests.py",
            "import os\n"
            "from django.test import SimpleTestCase\n"
            "from kept import cache, kept, main\n"
            "PARENT = os.getpid()\n"
            "class A(SimpleTestCase):\n"
            "    def test(self):\n"
            "        self.assertNotEqual(os.getpid(), PARENT)\n"
            "        self.assertIsNot(kept._cache, main)\n"
            "        self.assertIsNot(cache._cache, main)\n"
            "        self.assertTrue(kept.add('key', 1))\n"
            "        self.assertEqual(cache.get('key'), 1)\n"
            "class B(A): pass\n",
        )
        assert servers_of(project.test("--parallel", "2", START_METHOD="fork")) == 3


class TestNotDisturbed:
    def test_a_project_with_names_of_ours(self, project: Project) -> None:
        project.write("sandbox/__init__.py", "mine = True\n")
        project.write("sitecustomize.py", "import builtins; builtins.customized = __file__\n")
        project.write("usercustomize.py", "import builtins; builtins.customized_too = True\n")
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

    def test_nothing_is_imported_earlier_than_without_us(self, project: Project) -> None:
        script = "import sys; print(*sorted(sys.modules))"
        bare = project._run(sys.executable, "-c", script).stdout.split()
        ours = project.sandboxed("-q", "--", sys.executable, "-c", script).stdout.split()
        assert set(ours) - set(bare) <= {
            "__future__",
            "_memcached_sandbox",
            "_memcached_sandbox.guard",
            "_memcached_sandbox.hooks",
            "sitecustomize",
        }

    def test_an_old_python(self, project: Project) -> None:
        """The project's Python may be older than ours."""
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

    def test_modules_do_not_see_that_they_were_waited_for(self, project: Project) -> None:
        script = (
            "import inspect, django.conf, unittest.case\n"
            "for module in (django.conf, unittest.case):\n"
            "    print(type(module.__loader__).__name__, type(module.__spec__.loader).__name__)\n"
            "    inspect.getsource(module)\n"
        )
        result = project.sandboxed("-q", "--", sys.executable, "-c", script)
        assert result.stdout == "SourceFileLoader SourceFileLoader\n" * 2, result.stderr

    def test_a_fault_of_ours_fails_the_run(self, project: Project) -> None:
        """Never falls it back to the main memcached."""
        result = project.sandboxed(
            "--", "sh", "-c", "MEMCACHED_SANDBOX_CONTROL=/nowhere ./manage.py test"
        )
        assert "the sandbox of this run has ended: nobody listens at /nowhere" in result.stderr
        assert result.returncode == 1
        result = project.sandboxed(
            "--", "sh", "-c", "MEMCACHED_SANDBOX_CONTROL=/dev/null ./manage.py test"
        )
        assert "sandbox: the run's sandbox does not answer" in result.stderr
        assert result.returncode == 1

    def test_a_fault_of_ours_at_the_start_of_a_python_ends_it(self, project: Project) -> None:
        broken = project.folder / "inject"
        shutil.copytree(FOLDER, broken)
        (broken / "_memcached_sandbox" / "hooks.py").write_text("1 / 0\n")
        result = project.sandboxed(
            "--", "sh", "-c", f"PYTHONPATH={broken} python -c 'print(5)'; echo $?"
        )
        assert result.stdout == "125\n"
        fault = "this Python cannot be sandboxed: ZeroDivisionError('division by zero')"
        assert result.stderr.splitlines()[0] == f"sandbox: {fault}"

    def test_a_memcached_that_dies_fails_the_run(self, project: Project) -> None:
        project.write("tests.py", KILLS_MEMCACHED)
        result = project.sandboxed("--", "./manage.py", "test")
        assert "sandbox's memcached cannot be emptied" in result.stderr
        assert result.returncode == 1


class TestGuard:
    @pytest.fixture
    def hard_coded(self, project: Project, main_memcached: MainMemcached) -> Project:
        """A project with a test that uses the main address as such."""
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

    def test_refused_and_reported(self, hard_coded: Project) -> None:
        result = hard_coded.test()
        line = result.stderr.splitlines()[-1]
        assert re.match(r"sandbox: connecting to the main memcached was refused 9 times \(", line)
        assert "localhost:11211" in line
        assert re.search(r"first to \S+ CACHES\['default'\], at \S+/tests\.py:\d+$", line), line

    def test_strict(self, hard_coded: Project) -> None:
        command = ["--", "./manage.py", "test"]
        assert hard_coded.sandboxed("--strict", *command).returncode == 125
        assert hard_coded.sandboxed("--strict", *command, "-k", "other_ports").returncode == 0

    def test_a_subprocess_of_the_run_is_guarded(self, project: Project) -> None:
        connect = "import socket; socket.create_connection(('127.0.0.1', 11211))"
        result = project.sandboxed("--", "sh", "-c", f'python -c "{connect}"')
        assert "MainMemcachedRefused" in result.stderr
        assert "refused once (127.0.0.1:11211); first to 127.0.0.1:11211 at" in result.stderr

    def test_further_addresses_names_and_sockets(self, project: Project) -> None:
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

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ("", "the sandbox refuses the connection"),
            ("sys.modules['_memcached_sandbox.guard'] = None", "ModuleNotFoundError"),
        ],
    )
    def test_guard_of_a_process_that_clears_its_environment(
        self,
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

    def test_no_guard(self, run: Run, main_memcached: MainMemcached, tmp_path: Path) -> None:
        project = Project(tmp_path, run, main_memcached.address)
        script = f"import socket; socket.create_connection(('127.0.0.1', {main_memcached.port}))"
        shell = ["--", "./manage.py", "shell", "-c", script]
        assert "refused" in project.sandboxed(*shell).stderr
        result = project.sandboxed("--no-guard", *shell)
        assert "refused" not in result.stderr
        assert result.returncode == 0

    def test_guard_and_repointing_of_pylibmc(
        self, make_project: MakeProject, main_memcached: MainMemcached
    ) -> None:
        pytest.importorskip("pylibmc")
        backend = "django.core.cache.backends.memcached.PyLibMCCache"
        project = make_project(
            {"default": {"BACKEND": backend, "LOCATION": main_memcached.address}}
        )
        project.write("tests.py", CLEAN_CACHE)
        project.test()
        project.test("--parallel", "2")
        main_memcached.assert_untouched()


def test_environment_of_plugins_and_paths_is_kept(project: Project) -> None:
    result = project.sandboxed(
        "-q", "--", "printenv", "PYTHONPATH", "PYTEST_PLUGINS",
        PYTHONPATH="/mine", PYTEST_PLUGINS="",
    )  # fmt: skip
    path, plugins = result.stdout.splitlines()
    assert path.split(os.pathsep)[1:] == ["/mine"]
    assert plugins == "_memcached_sandbox.pytest_plugin"
