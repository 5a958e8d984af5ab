"""Caches are empty for each example of Hypothesis, which rolls back the database after it."""

from __future__ import annotations

import pytest

from ..helpers.projects import Project, pytest_command

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


@pytest.mark.parametrize(
    "runner",
    [["./manage.py", "test"], pytest_command("-phypothesispytest")],
    ids=["manage.py", "pytest"],
)
def test_each_example_starts_with_an_empty_cache(project: Project, runner: list[str]) -> None:
    project.write("test_examples.py", SUITE)
    result = project.sandboxed("--", *runner)
    assert result.returncode == 0, result.stdout + result.stderr
