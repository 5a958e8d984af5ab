"""`sandbox start` that fails: the shell that evaluates its output fails, too."""

from __future__ import annotations

import pytest

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.shells import EVALUATED, Shell, each_shell

# What follows only if the line before has failed.
OR_FAILED = {"sh": "|| echo FAILED", "fish": "; or echo FAILED"}


@each_shell
def test_eval_fails_with_the_start_and_changes_nothing(shell: str) -> None:
    line = f"{EVALUATED[shell]} {OR_FAILED.get(shell, OR_FAILED['sh'])}"
    with Shell(shell) as session:
        for options in (" --memory 0", " --nonsense", " --memcached /no/such/file"):
            assert session.run(line.format(options=f"{options} 2> /dev/null")) == "FAILED"
        assert "MEMCACHED_SANDBOX_ADDRESS" not in session.variables()
        assert session.run(line.format(options="")) == ""
        server = session.server()
        assert session.run(line.format(options=" 2> /dev/null")) == "FAILED"
        assert session.server() == server


def test_script_ends_where_the_start_fails(run: Run) -> None:
    start = 'set -e; eval "$(sandbox start --memory 0)"; echo on the main memcached'
    result = run("sh", "-c", start)
    assert (result.returncode, result.stdout) == (1, "")
    assert "--memory 0: must be 1 or more" in result.stderr


def test_second_start_names_the_line_that_ends_the_first(run: Run) -> None:
    result = run("sh", "-c", 'eval "$(sandbox start)" && sandbox start; sandbox stop 2> /dev/null')
    assert result.stdout.startswith("false\n")
    assert result.stderr.startswith("sandbox: this shell has a sandbox already, ")
    assert result.stderr.endswith(': end it with eval "$(sandbox stop)".\n')
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["sh", "fish"])
def test_failure_is_what_each_shell_understands(cli: Cli, shell: str) -> None:
    assert_one_line(cli("start", "--shell", shell, "--memory", "0"), 2, "--memory 0: must be 1")
    assert cli("start", "--shell", shell, "--help").stdout.startswith("Usage: ")
