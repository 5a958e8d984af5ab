"""MemcachedTestCase and its mixin: each class has a server of its own under plain unittest."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .helpers.processes import wait_until_gone

CASES = """
import unittest
from sandbox.unittest import MemcachedMixin, MemcachedTestCase

class Cases(MemcachedTestCase):
    memcached_options = {"memory_mb": 8}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = cls.memcached.client()
        cls.addClassCleanup(cls.client.close)

    def setUp(self):  # without a word to super()
        self.assertEqual(self.memcached.items(), [])

    def test_1(self):
        print("pid", self.memcached.pid)
        self.client.set("key", "value", noreply=False)
        self.assertEqual(self.memcached.stats()["limit_maxbytes"], str(8 << 20))
    test_2 = test_1

class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.mine = 1

class Mixed(MemcachedMixin, Base):
    def test(self):
        print("pid", self.memcached.pid)
        self.assertEqual(self.mine, 1)
"""


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_each_class_has_a_server_that_is_flushed_between_tests(
    run: Run, tmp_path: Path, runner: str
) -> None:
    (tmp_path / "test_it.py").write_text(CASES)
    options = ["-q", "-s", "-p", "no:randomly"] if runner == "pytest" else []
    result = run(sys.executable, "-Werror", "-m", runner, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search("Ran 3 tests|3 passed", result.stdout + result.stderr)
    pids = re.findall(r"pid (\d+)", result.stdout)
    assert pids[0] == pids[1] != pids[2]
    wait_until_gone(*map(int, pids))


def test_flush_comes_after_the_cleanups_of_a_test(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from sandbox.unittest import MemcachedTestCase\n"
        "class Tests(MemcachedTestCase):\n"
        "    def test_1(self):\n"
        "        client = self.memcached.client()\n"
        "        self.addCleanup(client.close)\n"
        "        self.addCleanup(client.set, 'key', 'value', noreply=False)\n"
        "    def test_2(self): self.assertEqual(self.memcached.items(), [])\n"
    )
    result = run(sys.executable, "-m", "unittest")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("memcached_options = {'memory_mb': 0}", "OptionError: memory_mb=0: must be 1 or more"),
        ("memcached_options = {'binary': '/no/memcached'}", "'/no/memcached' does not exist"),
        ("def setUpClass(): pass", "has no attribute 'memcached'"),
        (
            "def tearDown(self): self.memcached.stop()",
            "ServerError: this server does not run: start() it",
        ),
    ],
)
def test_bad_use_is_an_error_of_the_class_or_the_test(
    run: Run, tmp_path: Path, body: str, message: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        "from sandbox.unittest import MemcachedTestCase\n"
        "class Tests(MemcachedTestCase):\n"
        f"    {body}\n"
        "    def test(self): pass\n"
        "class Others(MemcachedTestCase):\n"
        "    def test(self): pass\n"
    )
    result = run(sys.executable, "-m", "unittest")
    assert result.returncode == 1
    assert "FAILED (errors=1)" in result.stderr
    assert message in result.stderr
