"""The fixtures that assert what a test does to its caches."""

from __future__ import annotations

from ..helpers.projects import InProcess, Project, passed

ASSERTIONS = """
import pytest
from django.core.cache import cache

def test_passes(assert_cache_ops, assert_max_cache_ops):
    with assert_cache_ops(gets=2, hits=1, sets=1), assert_max_cache_ops(gets=2):
        cache.get("key")
        cache.set("key", 1)
        cache.get("key")

def test_fails(assert_cache_ops):
    with assert_cache_ops(gets=1):
        cache.get("key")
        cache.get("key")

def test_exceeds(assert_max_cache_ops):
    with assert_max_cache_ops(using="default", sets=0):
        cache.set("key", 1)
"""


def test_assertions_with_the_plugin(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", ASSERTIONS)
    result = django_in_process.pytest()
    assert "2 failed, 1 passed" in result.stdout
    assert (
        "AssertionError: CACHES['default']: gets: expected 1, found 2\n"
        "E         get :1:key miss\n"
        "E         get :1:key miss (again)\n"
    ) in result.stdout
    assert "sets: expected at most 0, found 1" in result.stdout
    assert "assertions.py" not in result.stdout  # The traceback ends in the test.


def test_assertions_under_exec(off_project: Project) -> None:
    off_project.write("test_it.py", ASSERTIONS)
    result = off_project.sandboxed("--", "pytest", "-k", "passes")
    assert passed(result) == 1


def test_assertions_without_a_sandbox(django_in_process: InProcess) -> None:
    django_in_process.write("pytest.ini", "[pytest]")
    django_in_process.write("test_it.py", ASSERTIONS)
    result = django_in_process.pytest("-k", "fails")
    assert "no server of a sandbox: run the tests under 'sandbox exec', with" in result.stdout


def test_assertions_without_django(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "from contextlib import closing\n"
        "def test(memcached, assert_cache_ops):\n"
        "    with closing(memcached.client()) as client, assert_cache_ops(sets=1, gets=1):\n"
        "        client.set('key', 'value')\n"
        "        client.get('key')\n",
    )
    assert passed(plain.pytest()) == 1
