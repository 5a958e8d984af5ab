"""The command as a whole: its help, its version, and wrong usage."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.processes import script


@pytest.mark.whole_machine
@pytest.mark.parametrize("command", ["exec", "start", "stop", "list", "doctor", "install"])
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
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == cli("--help").stdout
    assert re.search(r"^  doctor +Check this machine", result.stdout, re.MULTILINE)


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
        (["lsit"], "No such command 'lsit': did you mean 'list'? See 'sandbox --help'."),
        (["nothing"], "No such command 'nothing'. See 'sandbox --help'."),
        (["ls"], "No such command 'ls': did you mean: sandbox exec -- ls. See 'sandbox --help'."),
        (
            ["sh", "-c", "a b"],
            "No such command 'sh': did you mean: sandbox exec -- sh -c 'a b'. See",
        ),
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


MEANT = "did you mean: sandbox exec -- "
NOT_FOUND = "command not found"
IN_QUOTES = "it is a whole command line in quotes"


@pytest.mark.parametrize("executable", [True, False])
def test_forgotten_exec_is_proposed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executable: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path / "manage.py", "").chmod(0o755 if executable else 0o644)
    for name, runnable in (("manage.py", "./manage.py"), ("./manage.py", "./manage.py")):
        words = f"{runnable} test" if executable else f"python {name} test"
        end = f"{MEANT}{words}. See 'sandbox --help'."
        assert_one_line(cli(name, "test"), 2, f"sandbox: No such command '{name}': {end}")
    quoted = cli("./manage.py test")
    assert_one_line(quoted, 2, f"sandbox: No such command './manage.py test': {IN_QUOTES}: {MEANT}")


@pytest.mark.parametrize(
    ("mode", "text", "words", "status", "message"),
    [
        (0o755, "#!/bin/sh", ["manage.py", "test"], 127, f"{NOT_FOUND}: {MEANT}./manage.py test"),
        (
            0o644,
            "",
            ["manage.py", "-v", "a b"],
            127,
            f"{NOT_FOUND}: {MEANT}python manage.py -v 'a b'",
        ),
        (0o644, "", ["./manage.py"], 126, f"Permission denied: {MEANT}python ./manage.py"),
        (0o755, "x = 1", ["./manage.py"], 126, f"Exec format error: {MEANT}python ./manage.py"),
        (
            *(0o755, "#!/no/such/python", ["./manage.py"], 127),
            f"the interpreter that its first line names was not found: {MEANT}python ./manage.py",
        ),
        (
            *(0o755, "#!/bin/sh", ["./manage.py test"], 127),
            f"{NOT_FOUND}: {IN_QUOTES}: {MEANT}./manage.py test",
        ),
        (
            *(0o755, "", ["python manage.py test"], 127),
            f"{NOT_FOUND}: {IN_QUOTES}: {MEANT}python manage.py test",
        ),
        (
            *(0o755, "#!/bin/sh", ["./manage.py test && true"], 127),
            f"{NOT_FOUND}: {IN_QUOTES}: {MEANT}sh -c './manage.py test && true'",
        ),
        (0o755, "", ["A=1 true"], 127, f"{NOT_FOUND}: {IN_QUOTES}: {MEANT}sh -c 'A=1 true'"),
        (0o755, "", ["A=1", "true"], 127, f"{NOT_FOUND}: {MEANT}env A=1 true"),
        (0o755, "", ["no such program"], 127, NOT_FOUND),
        (0o755, "", ["isn't here"], 127, NOT_FOUND),
    ],
)
def test_mistyped_command_is_proposed_as_it_was_meant(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, text: str,
    words: list[str], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    script(tmp_path / "manage.py", f"{text}\n").chmod(mode)
    result = cli("exec", "-q", "--", *words)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr == f"sandbox: {words[0]}: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--servers", "2"],
            "Invalid value for '--servers': further servers are for {address2} and",
        ),
        (
            ["--guard", "a:1", "--no-guard"],
            "--guard means nothing with --no-guard, which turns the",
        ),
        (
            ["--no-inject", "--exclude", "a"],
            "--exclude means nothing with --no-inject, which chang",
        ),
        (["--no-inject", "--flush", "never"], "--flush means nothing with --no-inject, which chan"),
        (["--no-inject", "--guard", "a:1"], "--guard means nothing with --no-inject, which chang"),
        (["--no-inject", "--crawl"], "--crawl means nothing with --no-inject, which changes nothi"),
    ],
)
@pytest.mark.parametrize("command", ["exec", "start"])
def test_options_that_mean_nothing_together_are_refused(
    cli: Cli, command: str, arguments: list[str], message: str
) -> None:
    words = ["true"] if command == "exec" else []
    assert_one_line(cli(command, *arguments, *words), 2, f"sandbox: {message}")
