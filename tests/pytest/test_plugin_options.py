"""The plugin's options: where they are read from, and the errors about wrong values."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings

from sandbox.server.options import OF_MEMCACHED, OPTIONS

from ..helpers.plugin_suites import LIMITS, ON, TEST_LOCATION
from ..helpers.projects import PYMEMCACHE, InProcess, Project, passed

# Options of a server, with the values that LIMITS prints.
OF_SERVERS = {
    "memory": "8M",
    "max_item_size": "2m",
    "threads": "3",
    "max_connections": "77",
    "unix": "true",
    "arg": "-f1.3",
    "start_timeout": "60",
}


def test_options_on_the_command_line(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIX", "1")
    in_process.write("test_it.py", LIMITS)
    flags = [
        f"--memcached-sandbox-{name.replace('_', '-')}" + ("" if name == "unix" else f"={value}")
        for name, value in OF_SERVERS.items()
    ]
    result = in_process.pytest("-s", *flags)
    assert passed(result) == 1
    assert "8 2097152 3 limits\n77 1.30 further\n" in result.stdout


def test_options_in_the_ini_file(in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIX", "1")
    in_process.write("test_it.py", LIMITS)
    lines = [f"memcached_sandbox_{name} = {value}\n" for name, value in OF_SERVERS.items()]
    ini = (in_process.folder / "pytest.ini").read_text() + "".join(lines)
    in_process.write("pytest.ini", ini)
    result = in_process.pytest("-s")
    assert passed(result) == 1
    assert "8 2097152 3 limits\n77 1.30 further\n" in result.stdout


def test_options_in_the_environment(in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIX", "1")
    in_process.write("test_it.py", LIMITS)
    for option in OF_MEMCACHED:
        if option.word in OF_SERVERS:
            monkeypatch.setenv(option.variable, OF_SERVERS[option.word])
    result = in_process.pytest("-s")
    assert passed(result) == 1
    assert "8 2097152 3 limits\n77 1.30 further\n" in result.stdout


def test_command_line_overrides_environment_overrides_ini_file(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process.write("test_it.py", LIMITS)
    monkeypatch.setenv("MEMCACHED_SANDBOX_MEMORY", "7")
    result = in_process.pytest("-s", "-o", "memcached_sandbox_memory=5")
    assert "7 1048576 1 limits" in result.stdout
    result = in_process.pytest(
        "-s", "-o", "memcached_sandbox_memory=5", "--memcached-sandbox-memory=6"
    )
    assert "6 1048576 1 limits" in result.stdout


@override_settings(
    CACHES={
        "default": {"BACKEND": PYMEMCACHE, "LOCATION": "main"},
        "dead": {"BACKEND": PYMEMCACHE, "LOCATION": "nowhere:1"},
    }
)
def test_excluded_alias_keeps_its_location(in_process: InProcess) -> None:
    in_process.write(
        "test_it.py",
        "from django.conf import settings\n"
        "def test(memcached_sandbox, memcached):\n"
        "    assert settings.CACHES['dead']['LOCATION'] == 'nowhere:1'\n"
        "    assert [*memcached_sandbox] == ['default']\n"
        "    assert memcached_sandbox['default'][0].address == memcached.address\n"
        "    assert settings.CACHES['default']['LOCATION'] == memcached.address\n",
    )
    assert passed(in_process.pytest("--memcached-sandbox-exclude=dead")) == 1
    assert passed(in_process.pytest("-o", "memcached_sandbox_exclude=dead")) == 1
    result = in_process.pytest("--memcached-sandbox-exclude=daed")
    assert result.returncode == 4
    assert "the aliases to exclude name 'daed', but the aliases in CACHES are" in result.stderr


@override_settings(
    CACHES={
        "default": {"BACKEND": PYMEMCACHE, "LOCATION": "main", "OPTIONS": {"tls_context": True}}
    }
)
def test_option_that_no_sandbox_serves_is_an_error_until_excluded(in_process: InProcess) -> None:
    in_process.write("test_it.py", "def test(): pass\n")
    result = in_process.pytest()
    assert result.returncode == 4
    assert result.stderr.endswith("exclude the alias with memcached_sandbox_exclude=default\n\n")
    assert passed(in_process.pytest("-o", "memcached_sandbox_exclude=default")) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("memory=many", "must be a whole number of MB, or a size such as 512m or 1g"),
        ("memory=0", "must be 1 or more"),
        ("memory=1", "memcached needs at least 2 MB"),
        ("max-item-size=2x", "must be a size: bytes, or such as 512k or 2m"),
        ("max-item-size=40m", "must be at most 32 MB, half of memcached_sandbox_memory (64 by"),
        ("threads=-1", "must be 1 or more"),
        ("start-timeout=soon", "must be a number of seconds"),
        ("arg=-d", "-d cannot be passed to memcached: a daemon could not be ended"),
        ("arg=-m5", "-m cannot be passed to memcached: use memcached_sandbox_memory"),
        ("flush=tests", "must be one of test, class, module, session, never"),
        ("guard=nowhere:port", "'nowhere:port' is not HOST:PORT, [IPV6]:PORT or unix:/PATH"),
    ],
)
def test_wrong_value_is_an_error_that_names_its_source(
    in_process: InProcess,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    message: str,
) -> None:
    in_process.write("test_it.py", TEST_LOCATION)
    flag = f"--memcached-sandbox-{option}"
    result = in_process.pytest(flag)
    assert result.returncode == 4
    assert result.stderr.startswith(f"ERROR: {flag}: {message}")
    assert len(result.stderr.splitlines()) == 2  # and an empty one
    name, _, value = option.partition("=")
    name = f"memcached_sandbox_{name.replace('-', '_')}"
    result = in_process.pytest("-o", f"{name}={value}")
    assert result.returncode == 4
    assert result.stderr.startswith(f"ERROR: -o {name}={value}: {message}")
    ini = in_process.folder / "pytest.ini"
    before = ini.read_text()
    ini.write_text(f"{before}{name} = {value}\n")
    result = in_process.pytest()
    assert result.returncode == 4
    assert result.stderr.startswith(f"ERROR: {name} = {value} in {ini}: {message}")
    ini.write_text(before)
    if not name.endswith("guard"):
        word = name.removeprefix("memcached_sandbox_")
        (variable,) = (option.variable for option in OPTIONS if option.word == word)
        monkeypatch.setenv(variable, value)
        result = in_process.pytest()
        assert result.returncode == 4
        assert result.stderr.startswith(f"ERROR: {variable}={value}: {message}")


def test_binary_that_cannot_run_is_an_error(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", TEST_LOCATION)
    result = django_in_process.pytest("--memcached-sandbox-binary=/no/memcached")
    assert result.returncode == 4
    assert re.match(r"ERROR: .*'/no/memcached' does not exist", result.stderr)
    result = django_in_process.pytest("--memcached-sandbox-binary=/bin/false")
    assert result.returncode == 4
    assert re.match(r"ERROR: .*/bin/false.*", result.stderr), result.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("exclude=daed", "the aliases to exclude name 'daed', but the aliases in CACHES are"),
        ("binary=/bin/false", ".*/bin/false.*"),
    ],
)
def test_error_while_the_settings_are_loaded_is_one_line(
    off_project: Project, option: str, message: str
) -> None:
    """pytest-django loads the settings before pytest is configured."""
    off_project.write("test_it.py", TEST_LOCATION)
    result = off_project.pytest(ON, f"--memcached-sandbox-{option}")
    assert (result.returncode, result.stdout) == (4, "")
    assert re.fullmatch(rf"ERROR: .*{message}.*\n\n", result.stderr), result.stderr
