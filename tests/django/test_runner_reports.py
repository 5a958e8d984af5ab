"""The Django test runner reports evictions and refused connections."""

from __future__ import annotations

import re

from ..helpers.django_runs import passes, with_runner
from ..helpers.projects import Project


def test_evictions_are_reported_with_the_option_to_raise(project: Project) -> None:
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


def test_refusals_in_workers_are_reported(project: Project) -> None:
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
