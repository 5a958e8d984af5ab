"""SandboxRunnerMixin in a runner of the project, with options in its attributes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.django_runs import passes, with_runner
from ..helpers.projects import PYMEMCACHE, Project
from ..helpers.suites import CLEAN_CACHE

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


@pytest.fixture
def project(tmp_path: Path, run: Run) -> Project:
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": "main"}
    project = Project(tmp_path, run, {"default": alias, "dead": {**alias, "LOCATION": "nowhere:1"}})
    project.write("runner.py", OWN_RUNNER)
    project.write("tests.py", CLEAN_CACHE.replace('get("key")', 'get("key")', 1))
    return with_runner(project, 'TEST_RUNNER = "runner.Runner"\n')


def test_servers_start_before_the_databases(project: Project) -> None:
    result = project.manage("test", "--parallel", "2")
    line = passes(result)
    assert line.startswith("336 gets (90.5 % hits), 337 sets")
    assert line.endswith(" of 16 MB in the fullest of 3 servers")
    assert result.stdout.index("their tests") < result.stdout.index("their databases")


def test_attributes_set_options(project: Project) -> None:
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
def test_bad_attribute_is_a_command_error(
    project: Project, right: str, wrong: str, message: str
) -> None:
    project.write("runner.py", OWN_RUNNER.replace(right, wrong))
    result = project.manage("test")
    assert result.returncode == 1
    assert result.stderr.startswith(f"CommandError: {message}")
    assert len(result.stderr.splitlines()) == 1
