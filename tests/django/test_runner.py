"""The Django test runner, in projects with `manage.py test`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.django_runs import passes, with_runner
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import Project
from ..helpers.suites import CLEAN_CACHE, START_METHODS, TRACED, WORKERS_AND_CHILDREN


def test_caches_are_empty_in_one_process(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    assert re.fullmatch(
        r"336 gets \(90\.5 % hits\), 336 sets, 0 evictions, peak memory \d\.\d of 64 MB",
        passes(project.manage("test")),
    )


def test_runner_has_a_short_name(project: Project) -> None:
    settings = (project.folder / "settings.py").read_text()
    assert "sandbox.django.runner.SandboxRunner" in settings
    project.write("settings.py", settings.replace(".django.runner.", ".django."))
    project.write("tests.py", CLEAN_CACHE)
    assert passes(project.manage("test")).startswith("336 gets")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_caches_are_empty_with_each_start_method(project: Project, start_method: str) -> None:
    project.write("tests.py", CLEAN_CACHE)
    result = project.manage("test", "--parallel", "3", START_METHOD=start_method)
    assert re.fullmatch(
        r"336 gets \(90\.5 % hits\), 336 sets, .* in the fullest of 4 servers", passes(result)
    )
    assert "Warning" not in result.stderr


def test_worker_shares_its_cache_with_its_child_processes(project: Project) -> None:
    project.write("tests.py", WORKERS_AND_CHILDREN)
    passes(project.manage("test"))
    passes(project.manage("test", "--parallel", "3"))
    passes(project.manage("test", "--parallel", "3", START_METHOD="spawn"))


def test_project_without_memcached_has_no_server(tmp_path: Path, run: Run) -> None:
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    project = with_runner(Project(tmp_path, run, {"default": local}))
    project.write(
        "tests.py", CLEAN_CACHE.replace('assertIsNone(cache.get("key"))', "assertTrue(1)")
    )
    for method in ("fork", "spawn"):
        result = project.manage("test", "--parallel", "2", START_METHOD=method)
        assert "Ran 16 tests" in result.stderr
        (line,) = (line for line in result.stdout.splitlines() if "memcached-sandbox" in line)
        assert line == (
            "memcached-sandbox: nothing used the sandbox: no alias of CACHES is a memcached "
            "('default' is LocMemCache)"
        )


def test_runner_under_exec_joins_its_run(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    for options, servers in ([], ""), (["--parallel", "2"], " in the fullest of 3 servers"):
        result = project.sandboxed("--", "./manage.py", "test", *options)
        assert result.returncode == 0
        assert "gets" not in result.stdout
        line = result.stderr.splitlines()[-1]
        assert line.startswith("sandbox: 336 gets (90.5 % hits), 336 sets")
        assert line.endswith(f" of 64 MB{servers}")


def test_django_is_unchanged_after_a_run(
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


@pytest.mark.parametrize("start_method", START_METHODS)
def test_workers_trace_their_servers(project: Project, start_method: str) -> None:
    project.write("tests.py", TRACED)
    passes(project.manage("test", "--parallel", "3", START_METHOD=start_method))
