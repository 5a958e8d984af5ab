"""Caches are empty for each example of Hypothesis, which rolls back the database after it."""

from __future__ import annotations

import pytest

from ..helpers.projects import Project, passed, pytest_command

SUITE = """
from django.core.cache import cache
from hypothesis import given, settings, strategies
from hypothesis.extra.django import TestCase

class Tests(TestCase):
    @given(strategies.integers())
    @settings(database=None, deadline=None, max_examples=20)
    def test(self, number):
        self.assertTrue(cache.add("key", number))

class KeepingTests(Tests):
    keep_cache = True

    @given(strategies.integers())
    @settings(database=None, deadline=None, max_examples=20)
    def test(self, number):
        cache.set("count", cache.get("count", 0) + 1)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        assert cache.get("count") == 20
"""

# Without a run: by the mixin, with a server of its own, and by a fixture. Plain test cases have
# one setUp for all examples, whose items stay.
OWN_SERVERS = """
import unittest
from contextlib import closing

import pytest
from django.core.cache import cache
from hypothesis import given, settings, strategies
from hypothesis.extra.django import TestCase
from sandbox.pytest import sandboxed_caches_fixture
from sandbox.unittest import MemcachedMixin

caches = sandboxed_caches_fixture(scope="class")
numbers = settings(database=None, deadline=None, max_examples=20)

class Mixed(MemcachedMixin, TestCase):
    @numbers
    @given(strategies.integers())
    def test(self, number):
        with closing(self.memcached.client()) as client:
            self.assertTrue(client.add("key", 1, noreply=False))

class Plain(MemcachedMixin, unittest.TestCase):
    def setUp(self):
        self.client = self.memcached.client()
        self.addCleanup(self.client.close)
        self.client.set("key", 1, noreply=False)

    @numbers
    @given(strategies.integers())
    def test(self, number):
        self.assertEqual(self.client.get("key"), b"1")

@pytest.mark.usefixtures("caches")
class Fixture(TestCase):
    @numbers
    @given(strategies.integers())
    def test(self, number):
        self.assertTrue(cache.add("key", number))

class KeptFixture(Fixture):
    keep_cache = True

    @numbers
    @given(strategies.integers())
    def test(self, number):
        cache.set("count", cache.get("count", 0) + 1)

    def test_examples_are_kept(self):
        self.assertEqual(cache.get("count"), 20)
"""


@pytest.mark.parametrize(
    "runner",
    [["./manage.py", "test"], pytest_command("-phypothesispytest")],
    ids=["manage.py", "pytest"],
)
def test_each_example_starts_with_an_empty_cache(project: Project, runner: list[str]) -> None:
    project.write("test_examples.py", SUITE)
    result = project.sandboxed("--", *runner)
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_example_starts_with_an_empty_server_of_its_own(project: Project) -> None:
    project.write("test_examples.py", OWN_SERVERS)
    assert passed(project.pytest("-phypothesispytest")) == 5
