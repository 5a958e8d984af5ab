"""Plugins that run a failed test again: each attempt at a test starts with empty caches."""

from __future__ import annotations

import pytest

from ..helpers.projects import InProcess, Project, passed, pytest_command

# Fails at its first attempt, and at each that finds the cache of an earlier one. It fails once in
# its teardown, too, where the plugins do not mind that.
SUITE = """
import pytest
from django.core.cache import cache

attempts = []

@pytest.fixture
def filled():
    yield
    cache.set("key", "by the fixture")

def test(filled):
    attempts.append(cache.get("key"))
    cache.set("key", "by the test")
    print("attempts", attempts)
    assert len(attempts) == 3
    assert attempts == [None] * 3

def test_after():
    assert cache.get("key") is None
"""

PLUGINS = {
    "rerunfailures": ["--reruns=2"],
    "pytest-retry": ["--retries=2"],
    "flaky": ["--force-flaky", "--max-runs=3"],
}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_each_attempt_starts_with_an_empty_cache(django_in_process: InProcess, plugin: str) -> None:
    django_in_process.write("test_it.py", SUITE)
    result = django_in_process.pytest(f"-p{plugin}", *PLUGINS[plugin])
    assert passed(result) == 2


@pytest.mark.parametrize("plugin", PLUGINS)
def test_each_attempt_starts_with_an_empty_cache_under_exec(project: Project, plugin: str) -> None:
    project.write("test_it.py", SUITE)
    result = project.sandboxed("--", *pytest_command(f"-p{plugin}", *PLUGINS[plugin]))
    assert passed(result) == 2


def test_failed_teardown_shows_what_the_cache_held_and_leaves_nothing(
    django_in_process: InProcess,
) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "@pytest.fixture\n"
        "def failing():\n"
        "    yield\n"
        "    cache.set('left-by-teardown', 1)\n"
        "    raise OSError\n"
        "def test(failing): pass\n"
        "def test_after(): assert cache.get('left-by-teardown') is None\n",
    )
    result = django_in_process.pytest()
    assert "2 passed, 1 error" in result.stdout
    assert "left-by-teardown" in result.stdout.partition("memcached at 127.0.0.1:")[2]
