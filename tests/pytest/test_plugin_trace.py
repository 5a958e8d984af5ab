"""The last operations of a failed test, in its report."""

from __future__ import annotations

import re

from ..helpers.projects import InProcess, Project

FAILING = """
import pytest
from django.core.cache import cache

def test_passes(): cache.get("passes")

def test_fails():
    cache.set("key", 1, 60)
    cache.get("key")
    assert 0

def test_fails_late():
    for number in range(25): cache.get(f"late{number}")
    assert 0

@pytest.fixture
def fails():
    cache.get("fixture")
    yield
    cache.get("teardown")
    assert 0

def test_teardown_fails(fails): pass
"""

FAILED = [
    ["... after 5 others", *(f"get :1:late{number} miss" for number in range(5, 25))],
    ["get :1:fixture miss", "get :1:teardown miss"],
    ["set :1:key 60 s, 1 byte", "get :1:key hit"],
]


def operations(output: str) -> list[list[str]]:
    """Returns the lines of each section with operations."""
    title = r"-+ last operations on memcached at .* -+\n"
    sections = re.findall(rf"(?m)^{title}((?:(?!memcached-).+\n)*?)(?=[_=-]{{9}}|mem)", output)
    return sorted(section.splitlines() for section in sections)


def test_failed_tests_show_their_last_operations(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", FAILING)
    assert operations(django_in_process.pytest().stdout) == []
    assert operations(django_in_process.pytest("--memcached-sandbox-trace").stdout) == FAILED


def test_session_under_exec_shows_operations(off_project: Project) -> None:
    off_project.write("test_it.py", FAILING)
    options = ("--memcached-sandbox", "--memcached-sandbox-trace")
    result = off_project.sandboxed("--leaks", "--", "pytest", *options)
    assert operations(result.stdout) == FAILED
    assert "\nsandbox: without isolation none of 4 tests " in result.stderr


def test_test_without_operations(in_process: InProcess) -> None:
    in_process.write("test_it.py", "def test(memcached): assert 0\n")
    result = in_process.pytest("--memcached-sandbox-trace")
    assert operations(result.stdout) == [["no operation"]]


def test_trace_that_is_disturbed_says_so(django_in_process: InProcess) -> None:
    """In the report: a warning could be an error."""
    django_in_process.write(
        "test_it.py",
        "from contextlib import closing\n"
        "def test(memcached):\n"
        "    with closing(memcached.client()) as client:\n"
        "        client.raw_command('verbosity 0')\n"
        "    assert 0\n",
    )
    result = django_in_process.pytest("--memcached-sandbox-trace", "-Werror")
    assert "\n(a client has sent 'verbosity 0' to memcached at " in result.stdout
    assert "INTERNALERROR" not in result.stdout + result.stderr


def test_server_that_dies_leaves_its_last_operations(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import os, signal\n"
        "from django.core.cache import cache\n"
        "def test(memcached):\n"
        "    cache.get('key')\n"
        "    os.kill(memcached.pid, signal.SIGKILL)\n"
        "    assert 0\n",
    )
    result = django_in_process.pytest("--memcached-sandbox-trace")
    assert operations(result.stdout) == [["get :1:key miss"]]
