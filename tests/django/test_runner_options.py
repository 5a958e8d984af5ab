"""Options of the Django test runner: on the command line and in the environment."""

from __future__ import annotations

import re

import pytest

from ..helpers.django_runs import passes, with_runner
from ..helpers.projects import PYMEMCACHE, MakeProject, Project
from ..helpers.suites import CLEAN_CACHE

TRIES_MAIN = """
import socket
from django.test import SimpleTestCase
class Tests(SimpleTestCase):
    def test(self):
        try: socket.create_connection(("127.0.0.1", 11211), timeout=1)
        except OSError: pass
"""


def test_options_set_the_memory_and_the_flush(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    line = passes(project.manage("test", "--memcached-memory", "8"))
    assert line.endswith(" of 8 MB")
    result = project.manage("test", "--memcached-flush", "never")
    assert result.returncode == 1
    assert re.search(r"'Tests\d' is not None", result.stderr)
    assert "--memcached-memory" in project.manage("test", "--help").stdout


def test_strict_sets_the_status_and_quiet_drops_the_summary(project: Project) -> None:
    project.write("tests.py", TRIES_MAIN)
    for arguments, environment, code in (
        ([], {}, 0),
        (["--memcached-strict"], {}, 1),
        (["--memcached-quiet"], {"MEMCACHED_SANDBOX_STRICT": "1"}, 1),
    ):
        result = project.manage("test", *arguments, **environment)
        assert result.returncode == code, result.stderr
        assert "connecting to the main memcached was refused once" in result.stdout
        assert ("peak memory" in result.stdout) is ("--memcached-quiet" not in arguments)
    result = project.sandboxed("--", "./manage.py", "test", "--memcached-strict")
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memcached-memory", "0"], "--memcached-memory=0: must be 1 or more"),
        (["--memcached-memory", "x"], "--memcached-memory=x: must be a whole number of MB"),
        (["--memcached-max-item-size=40m"], "at most 32 MB, half of --memcached-memory (64 by de"),
        (["--memcached-flush", "class"], "--memcached-flush=class: must be one of test, never"),
        (["MEMCACHED_SANDBOX_MEMORY=lots"], "MEMCACHED_SANDBOX_MEMORY=lots: must be a whole num"),
        (["MEMCACHED_SANDBOX_STRICT=x"], "MEMCACHED_SANDBOX_STRICT=x: must be true or false"),
    ],
)
def test_bad_option_is_a_command_error(
    project: Project, arguments: list[str], message: str
) -> None:
    project.write("tests.py", CLEAN_CACHE)
    environment = dict(a.split("=") for a in arguments if a.startswith("MEMCACHED"))
    result = project.manage("test", *arguments * (not environment), **environment)
    assert result.returncode == 1
    assert result.stderr.startswith("CommandError: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_option_that_no_sandbox_serves_is_a_command_error_until_excluded(
    make_project: MakeProject,
) -> None:
    options = {"tls_context": True}
    caches = {"default": {"BACKEND": PYMEMCACHE, "LOCATION": "main:1", "OPTIONS": options}}
    project = with_runner(make_project(caches))
    project.write("tests.py", TRIES_MAIN)
    result = project.manage("test")
    assert result.returncode == 1
    assert result.stderr.startswith("CommandError: CACHES['default']['OPTIONS']['tls_context'] is")
    found = re.search(
        r"or exclude the alias with (--memcached-exclude default)\.\n$", result.stderr
    )
    assert found, result.stderr
    assert project.manage("test", *found[1].split()).returncode == 0


def test_missing_binary_is_a_command_error(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    result = project.manage("test", MEMCACHED_SANDBOX_BINARY="/no/memcached")
    assert result.returncode == 1
    assert re.fullmatch(r"CommandError: .*'/no/memcached' does not exist.*\n", result.stderr)
