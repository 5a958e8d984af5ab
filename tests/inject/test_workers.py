"""Each worker of a run has servers of its own, which its child processes share."""

from __future__ import annotations

import re

import pytest

from ..conftest import Run
from ..helpers.django_runs import RUNNER, servers_of, with_runner
from ..helpers.memcacheds import starting_once
from ..helpers.projects import Project
from ..helpers.suites import CLEAN_CACHE, START_METHODS, TRACED, WORKERS_AND_CHILDREN


def test_processes_of_a_run_share_one_cache(project: Project) -> None:
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


def test_worker_shares_its_cache_with_its_child_processes(project: Project) -> None:
    project.write("tests.py", WORKERS_AND_CHILDREN)
    project.test()
    project.test("--parallel", "3")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_workers_of_a_custom_suite_have_their_own_servers(
    project: Project, start_method: str
) -> None:
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


def test_pool_can_send_its_initializer_after_its_run(python: Run) -> None:
    """Covers a run that has failed: Django leaves its pool to the end of the interpreter."""
    result = python(
        "import pickle\n"
        "from django.test import runner\n"
        "from sandbox.run.local import sandbox_run\n"
        "plain = runner._init_worker\n"
        "with sandbox_run():\n"
        "    during = runner.ParallelTestSuite.init_worker\n"
        "assert pickle.loads(pickle.dumps(during)) is during is not plain\n"
        "with sandbox_run():\n"
        "    assert runner._init_worker is runner.ParallelTestSuite.init_worker is during\n"
    )
    assert (result.stderr, result.returncode) == ("", 0)


def test_worker_does_not_use_inherited_connections(project: Project) -> None:
    """Covers Django's caches, and a backend object that the project has kept."""
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


def test_run_within_a_run_has_its_own_servers(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    show = "from django.core.cache import cache; print(cache.get_or_set('depth', {}))"
    result = project.sandboxed(
        "--", "sh", "-c",
        f"""
        set -e
        python -c "{show.format("'outer'")}"
        sandbox exec -- python -c "{show.format("'inner'")}"
        sandbox exec -- ./manage.py test --parallel 2
        python -c "{show.format("'again'")}"
        """,
        DJANGO_SETTINGS_MODULE="settings",
    )  # fmt: skip
    assert result.stdout.split("\n")[:2] == ["outer", "inner"], result.stderr
    assert result.stdout.rstrip().endswith("outer")
    assert result.returncode == 0, result.stderr


def bounded(project: Project) -> Project:
    """End a run that would hang, and workers that were not forked."""
    return with_runner(project, "import signal; signal.alarm(60)\n")


@pytest.mark.parametrize("runner", ["", RUNNER])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_run_whose_workers_get_no_server_ends(
    project: Project, start_method: str, runner: str
) -> None:
    project.write("tests.py", CLEAN_CACHE)
    with_runner(bounded(project), runner)
    options = ("--memcached", starting_once(project.folder), "--")
    command = ("./manage.py", "test", "--parallel", "2")
    result = project.sandboxed(*options, *command, START_METHOD=start_method)
    assert result.returncode == 1, result.stderr
    told = re.findall(r"^sandbox: .*exit code 3.*", result.stderr, re.MULTILINE)
    # Of workers that were not forked, a third one may fail before the run has ended.
    assert 1 <= len(told) <= (2 if start_method == "fork" else 4), result.stderr


@pytest.mark.parametrize("start_method", START_METHODS[1:])
@pytest.mark.parametrize("loads_settings", ["manage.py", "tests.py", "django"])
def test_run_whose_workers_cannot_load_settings_ends(
    project: Project, start_method: str, loads_settings: str
) -> None:
    """Covers workers that fail before their initializer, in it, and with their first tests."""
    more = (
        "import multiprocessing\n"
        "if multiprocessing.current_process().name != 'MainProcess':\n"
        "    CACHES['more'] = {**CACHES['default'], 'LOCATION': '127.0.0.1:9'}\n"
    )
    with_runner(bounded(project), more + RUNNER)
    project.write("tests.py", CLEAN_CACHE)
    if loads_settings != "django":
        file = project.folder / loads_settings
        load = "from django.conf import settings; settings.CACHES"
        project.write(loads_settings, f"{file.read_text()}\n{load}\n")
    result = project.manage("test", "--parallel", "2", START_METHOD=start_method)
    assert result.returncode == 1, result.stderr
    assert "there is no server for 127.0.0.1:9 in the sandbox" in result.stderr


@pytest.mark.parametrize("start_method", START_METHODS)
def test_run_that_loses_a_worker_ends(project: Project, start_method: str) -> None:
    bounded(project)
    project.write(
        "tests.py",
        "import os\n"
        "from django.test import SimpleTestCase\n"
        "class A(SimpleTestCase):\n"
        "    def test(self): os._exit(0)\n"
        "class B(A): pass\n",
    )
    command = ("./manage.py", "test", "--parallel", "2")
    result = project.sandboxed("--", *command, START_METHOD=start_method)
    assert result.returncode == 1, result.stderr
    assert "RunError: a worker of the tests ended too early" in result.stderr


@pytest.mark.parametrize("start_method", START_METHODS)
def test_workers_trace_their_servers(project: Project, start_method: str) -> None:
    project.write("tests.py", TRACED)
    project.test("--parallel", "3", START_METHOD=start_method)
