"""A suite has the same result by `sandbox exec`, the pytest plugin and the test runner."""

from __future__ import annotations

from pathlib import Path

from ..conftest import Run
from ..helpers.processes import found
from ..helpers.projects import PYMEMCACHE, Project

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


def test_each_way_in_has_the_same_result(tmp_path: Path, run: Run) -> None:
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": "main"}
    project = Project(tmp_path, run, {"default": alias, "other": {**alias, "LOCATION": "other"}})
    project.write("tests.py", SUITE)
    by_exec = project.sandboxed("--", "./manage.py", "test")
    by_plugin = project.pytest("--memcached-sandbox", "tests.py")
    by_runner = project.manage("test", "--testrunner=sandbox.django.runner.SandboxRunner")
    counted = r"\d+ gets \(.*?\), \d+ sets, 0 evictions, peak memory .* in the fullest of 2 s.*"
    lines = {
        found(counted, result.stdout + result.stderr)[0]
        for result in (by_exec, by_plugin, by_runner)
    }
    assert len(lines) == 1
    for result in (by_exec, by_runner):
        assert "Ran 5 tests" in result.stderr
        assert "FAILED (errors=1)" in result.stderr
        assert "ERROR: test_3 (tests.Tests" in result.stderr
    assert "1 failed, 4 passed" in by_plugin.stdout
    assert "FAILED tests.py::Tests::test_3" in by_plugin.stdout
