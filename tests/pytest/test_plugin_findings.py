"""Findings are warnings with the place of the test, which filters and a marker know."""

from __future__ import annotations

import re

import pytest

from ..helpers.processes import Result
from ..helpers.projects import InProcess, Project

SUITE = """
import pytest
from django.core.cache import cache

def test_repeats():
    for _ in range(3): cache.get("price:7")

@pytest.mark.allow_finding("no-expiry", "config:*")
@pytest.mark.allow_finding("never-read")
def test_allowed(): cache.set("config:7", 1, None)

@pytest.mark.allow_finding("no-expiry", "other:*")
def test_forever(): cache.set("config:7", 1, None)

def test_is_fine():
    cache.set("fine", 1)
    assert cache.get("fine") == 1

def test_too_large():
    with pytest.raises(Exception): cache.set("large", "x" * 2_000_000)
"""

WARNINGS = {
    5: "repeated: :1:price:7 is fetched 3 times in one test",
    12: "no-expiry: :1:config:7 is set without expiry",
    19: "too-large: :1:large is refused: 2,000,000 bytes are too large, or there is no memory left",
}
NEVER_READ = "never-read: :1:config:7 is set, and no such key is read in the whole run"


def warned(result: Result) -> dict[int, str]:
    """Returns the warnings, by the line of the test."""
    found = re.findall(r"test_it\.py:(\d+): MemcachedFinding: (.*)", result.stdout)
    return {int(line): text for line, text in found}


def test_findings_are_warnings(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", SUITE)
    assert warned(django_in_process.pytest()) == {}
    result = django_in_process.pytest("-Wdefault", "--memcached-sandbox-findings")
    assert "5 passed" in result.stdout
    # Of two warnings in one line, both are shown.
    shown = re.findall(r"MemcachedFinding: (.*)", result.stdout)
    assert sorted(shown) == sorted([*WARNINGS.values(), NEVER_READ])
    assert "\n  no-expiry: :1:config:# is set without expiry (test_it.py::test_forever)\n" in (
        result.stdout
    )


def test_findings_of_workers(project: Project) -> None:
    project.write("test_it.py", SUITE)
    result = project.pytest("-n2", "--memcached-sandbox-findings")
    shown = re.findall(r"MemcachedFinding: (.*)", result.stdout)
    assert sorted(shown) == sorted([*WARNINGS.values(), NEVER_READ])


def test_findings_can_be_errors(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", SUITE)
    ini = "[pytest]\nmemcached_sandbox = true\nmemcached_sandbox_findings = true\n"
    django_in_process.write(
        "pytest.ini", f"{ini}filterwarnings = error::sandbox.MemcachedFinding\n"
    )
    result = django_in_process.pytest()
    assert "3 failed, 2 passed" in result.stdout
    for text in WARNINGS.values():
        assert f"\n{text}\n" in result.stdout
    assert f"\nmemcached-sandbox: {NEVER_READ}\n" in result.stdout
    result = django_in_process.pytest("-k", "allowed or fine")
    assert result.returncode == 0, result.stdout
    django_in_process.write(
        "test_it.py", "from django.core.cache import cache\ndef test(): cache.set('a', 1)\n"
    )
    assert django_in_process.pytest().returncode == pytest.ExitCode.TESTS_FAILED


def test_findings_under_exec(off_project: Project) -> None:
    off_project.write("test_it.py", SUITE)
    options = ("--memcached-sandbox", "--memcached-sandbox-findings")
    result = off_project.sandboxed("--", "pytest", *options)
    assert warned(result).items() >= {key: WARNINGS[key] for key in (5, 19)}.items()


def test_evictions_are_warnings(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "from django.core.cache import cache\n"
        "def test_evicts():\n"
        "    for number in range(100): cache.set(f'k{number}', b'x' * 100_000)\n"
        "    cache.get('k0')\n"
        "def test_does_not(): pass\n",
    )
    options = ("--memcached-sandbox-findings", "--memcached-sandbox-memory=4")
    result = django_in_process.pytest("-Wdefault", *options)
    (text,) = re.findall(r"test_it\.py:2: MemcachedFinding: evicted: (.*)", result.stdout)
    assert re.fullmatch(r"\d+ items gave way to others for want of memory", text)
    assert result.stdout.count("MemcachedFinding") == 1


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("'no-expirey'", "'no-expirey'"),
        ("", "nothing"),
        ("'no-expiry', 7", "'no-expiry', 7"),
        ("'no-expiry', key='a'", "'no-expiry', key='a'"),
    ],
)
def test_marker_that_is_wrong(in_process: InProcess, arguments: str, given: str) -> None:
    in_process.write(
        "test_it.py",
        f"import pytest\n@pytest.mark.allow_finding({arguments})\ndef test(): pass\n",
    )
    result = in_process.pytest("--memcached-sandbox-findings", "--strict-markers")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert (
        "\nallow_finding takes one of repeated, never-read, no-expiry, too-large, evicted, "
        f"and patterns of keys, but got {given}\n"
    ) in result.stdout


def test_marker_allows_the_keys_that_it_names_alone(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "@pytest.mark.allow_finding('no-expiry', 'config:1')\n"
        "def test():\n"
        "    for number in (1, 2): cache.set(f'config:{number}', 1, None)\n"
        "    cache.get('config:1')\n",
    )
    result = django_in_process.pytest("-Wdefault", "--memcached-sandbox-findings")
    assert re.findall(r"MemcachedFinding: (.*)", result.stdout) == [
        "no-expiry: :1:config:2 is set without expiry"
    ]


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="this pytest has no subtests")
def test_finding_is_told_once_for_all_subtests(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "from django.core.cache import cache\n"
        "def test(subtests):\n"
        "    cache.set('a', 1, None); cache.get('a')\n"
        "    for number in range(3):\n"
        "        with subtests.test(number=number): pass\n",
    )
    result = django_in_process.pytest("-Wdefault", "--memcached-sandbox-findings")
    assert result.stdout.count("MemcachedFinding") == 1


def test_finding_in_a_teardown_or_between_examples(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "from sandbox.inject import run\n"
        "@pytest.fixture\n"
        "def late():\n"
        "    yield\n"
        "    cache.set('late', 1, None); cache.get('late')\n"
        "def test_late(late): pass\n"
        "def test_flushes():\n"
        "    cache.set('early', 1, None); cache.get('early')\n"
        "    run.current_run().flush()\n"  # as after each example of Hypothesis
        "@pytest.mark.xfail\n"
        "def test_xfail():\n"
        "    cache.set('bad', 1, None); cache.get('bad')\n"
        "    assert 0\n",
    )
    option = "--memcached-sandbox-findings"
    result = django_in_process.pytest("-Werror::sandbox.MemcachedFinding", option)
    assert "1 failed, 1 passed, 1 xfailed, 1 error" in result.stdout
    assert "\nERROR test_it.py::test_late" in result.stdout
    assert "\nFAILED test_it.py::test_flushes" in result.stdout
    for name in ("late", "early"):
        assert f"\nno-expiry: :1:{name} is set without expiry\n" in result.stdout


def test_option_turns_the_plugin_on(django_in_process: InProcess) -> None:
    django_in_process.write("pytest.ini", "[pytest]\n")
    django_in_process.write("test_it.py", SUITE)
    result = django_in_process.pytest("-Wdefault", "--memcached-sandbox-findings")
    assert result.stdout.count("MemcachedFinding") == 4


def test_first_test_that_starts_the_server_has_findings(in_process: InProcess) -> None:
    in_process.write(
        "test_it.py",
        "from contextlib import closing\n"
        "def test(memcached):\n"
        "    with closing(memcached.client()) as client:\n"
        "        for _ in range(3): client.get('key')\n",
    )
    result = in_process.pytest("-Wdefault", "--memcached-sandbox-findings")
    assert "test_it.py:2: MemcachedFinding: repeated: key is fetched 3 times" in result.stdout
