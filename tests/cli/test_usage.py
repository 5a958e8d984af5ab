"""The command as a whole: its help, its version, and wrong usage."""

from __future__ import annotations

import re
import sys

import pytest

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line


@pytest.mark.whole_machine
@pytest.mark.parametrize("command", ["exec", "start", "stop", "list", "doctor"])
def test_help_has_an_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.returncode == 0
    assert re.search(rf"^ +.*sandbox {command}", result.stdout.partition("\n")[2], re.MULTILINE)
    assert f"  {command} " in cli("--help").stdout


def test_help_and_version(cli: Cli) -> None:
    for arguments in (["--help"], ["exec", "--help"], ["exec", "-h"]):
        result = cli(*arguments)
        assert result.returncode == 0
        assert "sandbox exec -- ./manage.py test" in result.stdout
    assert re.fullmatch(r"memcached-sandbox \d+\.\d+\.\d+\n", cli("--version").stdout)


def test_command_without_words_prints_its_help(cli: Cli) -> None:
    result = cli()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: sandbox [OPTIONS] COMMAND [ARGS]...\n")
    assert "\n  doctor  Check this machine" in result.stderr


def test_python_dash_m_runs_the_command(run: Run) -> None:
    result = run(sys.executable, "-m", "sandbox", "exec", "-q", "--", "echo", "hello")
    assert (result.stdout, result.stderr, result.returncode) == ("hello\n", "", 0)


def test_shell_completion(run: Run) -> None:
    result = run("sandbox", _SANDBOX_COMPLETE="bash_source")
    assert "complete -o nosort -F _sandbox_completion sandbox" in result.stdout


@pytest.mark.whole_machine
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lsit"], "No such command 'lsit'. See 'sandbox --help'."),
        (["list", "--yaml"], "No such option"),
        (["list", "5a5f89de"], "Got unexpected extra argument (5a5f89de)"),
        (["stop"], "This shell has no sandbox: give an ID, --all or --stale."),
        (["stop", "nothing"], "There is no sandbox 'nothing' in /"),
        (["stop", "--shell", "tcsh"], "Invalid value for '--shell': 'tcsh' is not one of"),
        (["start", "--ttl", "soon"], "Invalid value for '--ttl': 'soon' is not a time: give 45s,"),
        (["start", "--ttl", "0s"], "Invalid value for '--ttl': '0s' is out of range: give 1s to"),
        (["start", "--ttl", "8d"], "Invalid value for '--ttl': '8d' is out of range: give 1s to"),
        (["start", "-m", "0"], "--memory 0: must be 1 or more. See 'sandbox start --help'."),
        (["start", "--env", "1A=b"], "Invalid value for '--env': a shell has no variable '1A': us"),
        (["start", "true"], "Got unexpected extra argument (true)"),
        (["doctor", "me"], "Got unexpected extra argument (me)"),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli(*arguments)
    assert_one_line(result, 2, f"sandbox: {message}")
