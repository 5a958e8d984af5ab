"""`sandbox exec`: what the command gets, and its exit status."""

from __future__ import annotations

import re
import subprocess
import sys

import psutil
import pytest

from ..conftest import Run
from ..helpers.shells import Shell

SUMMARY = re.compile(
    r"sandbox: 2 gets \(50\.0 % hits\), 1 set, 0 evictions, peak memory [\d.]+ of 64 MB\n"
)

USE_CACHE = """
import os
from pymemcache import Client
client = Client(os.environ["MEMCACHED_SANDBOX_ADDRESS"])
client.set("key", "value")
client.get("key"), client.get("nothing")
print(client.stats()[b"pid"])
"""


def test_command_has_its_own_memcached_which_ends_with_it(run: Run) -> None:
    result = run("sandbox", "exec", "--", sys.executable, "-c", USE_CACHE)
    assert result.returncode == 0
    assert SUMMARY.fullmatch(result.stderr)
    assert not psutil.pid_exists(int(result.stdout))


def test_environment_has_the_address_and_what_env_adds(run: Run) -> None:
    script = "echo $MEMCACHED_SANDBOX_ADDRESS $MEMCACHED_SANDBOX_PID $CACHE_URL $SET"
    result = run(
        "sandbox", "exec",
        "--env", "CACHE_URL=pymemcache://{address}/?h={host}&p={port}",
        "--env", 'SET={"a b": {}}',
        "--env", "npm.port={port}",
        "sh", "-c", script,
    )  # fmt: skip
    address, pid, url, rest = result.stdout.rstrip().split(" ", 3)
    host, port = address.split(":")
    assert url == f"pymemcache://{host}:{port}/?h={host}&p={port}"
    assert rest == '{"a b": {}}'
    assert pid.isdigit()


def test_exec_without_injection_undoes_the_injection_of_the_shell(shell: Shell) -> None:
    shell.run("unset PYTHONPATH")
    shell.run('eval "$(sandbox start)"')
    assert shell.run("sandbox exec -q --no-inject -- sh -c 'echo $PYTHONPATH'") == ""
    said = shell.run("sandbox exec -q --no-guard -- sh -c 'echo [$MEMCACHED_SANDBOX_GUARDED]'")
    assert said == "[]"


def test_options_after_the_command_are_passed_to_it(run: Run) -> None:
    result = run("sandbox", "exec", "-q", "echo", "-m", "1", "--help", "--", "-v")
    assert result.stdout == "-m 1 --help -- -v\n"


def test_standard_streams_are_those_of_the_command() -> None:
    result = subprocess.run(
        ["sandbox", "exec", "-q", "--", "sh", "-c", "cat; echo error >&2"],
        input="through and through",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("through and through", "error\n")


def test_reader_that_goes_away_ends_the_command(run: Run) -> None:
    result = run("sh", "-c", "sandbox exec -q -- yes | head -n 1; sandbox exec true 2>&- | cat")
    assert (result.stdout, result.stderr) == ("y\n", "")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit 125"], 125),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["sh", "-c", "kill -INT $$"], 128 + 2),
        (["sh", "-c", "kill -KILL $$"], 128 + 9),
        (["sh", "-c", "kill -SEGV $$"], 128 + 11),
    ],
)
def test_exit_status_is_that_of_the_command(run: Run, command: list[str], status: int) -> None:
    assert run("sandbox", "exec", "-q", "--", *command).returncode == status


def test_exit_status_under_a_parent_that_ignores_sigchld(run: Run) -> None:
    result = run("sh", "-c", "trap '' CHLD; exec sandbox exec -q -- sh -c 'exit 3'")
    assert result.returncode == 3


def test_exec_imports_no_costly_module(run: Run) -> None:
    """The start of a command is a hot path: psutil alone would add half of its time."""
    result = run(sys.executable, "-X", "importtime", "-m", "sandbox", "exec", "-q", "--", "true")
    assert result.returncode == 0
    assert "click" in result.stderr
    for costly in (
        "psutil",
        "pymemcache",
        "django",
        "sandbox.cli.start",
        "sandbox.registry.inventory",
    ):
        assert costly not in result.stderr
