"""`sandbox start`: a sandbox for a shell, and the variables that lead to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from pymemcache import Client

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import eventually, printed, spawn
from ..helpers.projects import Project
from ..helpers.shells import EVALUATED, FORGOTTEN, Shell, each_shell


@each_shell
def test_sandbox_from_start_to_stop(run_folder: Path, shell: str) -> None:
    session = Shell(shell)
    try:
        before = session.variables()
        assert session.run(EVALUATED[shell].format(options=" -m 32")) == ""
        within = session.variables()
        client = Client(within["MEMCACHED_SANDBOX_ADDRESS"])
        stats = client.stats()
        client.close()
        assert str(stats[b"pid"]) == within["MEMCACHED_SANDBOX_PID"]
        assert stats[b"limit_maxbytes"] == 32 * 1024 * 1024
        assert session.run(FORGOTTEN[shell]) == ""
        after = session.variables()
        changing = {"_", "SHLVL", "PWD", "OLDPWD"}
        assert {n: v for n, v in after.items() if n not in changing} == {
            n: v for n, v in before.items() if n not in changing
        }
        eventually(lambda: list(run_folder.iterdir()) == [])
    finally:
        session.end()


def test_values_of_any_kind_are_quoted(shell: Shell) -> None:
    odd = "a'b\"c $HOME `id` \\ ü;&"
    shell.run(f"export PYTHONPATH='{odd}'".replace("a'b", "a'\\''b"))
    shell.run("""eval "$(sandbox start --env "URL=it's {address} \\$(touch owned)")\"""")
    variables = shell.variables()
    assert variables["PYTHONPATH"].endswith(f":{odd}")
    assert variables["URL"] == f"it's {variables['MEMCACHED_SANDBOX_ADDRESS']} $(touch owned)"
    shell.run('eval "$(sandbox stop)"')
    assert shell.variables()["PYTHONPATH"] == odd
    assert "URL" not in shell.variables()


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_values_of_any_kind_are_quoted_for_fish() -> None:
    session = Shell("fish")
    odd = "a'b\"c $HOME (id) \\ \\' ü;&"
    command = ["sandbox", "start", "--shell", "fish", "--env", f"URL={odd}{{port}}", "--ttl", "60s"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in output.splitlines() if line.startswith("set -gx URL")]
    session.run(line)
    assert re.fullmatch(re.escape(odd) + r"\d+", session.variables()["URL"])
    session.end()
    (control,) = re.findall("SANDBOX_CONTROL '(.*)'", output)
    env = {**os.environ, "MEMCACHED_SANDBOX_CONTROL": control}
    subprocess.run(["sandbox", "stop"], env=env, capture_output=True, check=True)


@each_shell
def test_values_are_not_expanded(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    """An unquoted "=ls" is the path of a command in zsh."""
    values = {
        "A": "=ls",
        "B": "a:=no-such-command",
        "C": "~",
        "D": "''",
        "E": "\\'\\",
        "F": "$(id)",
    }
    given = " ".join(f"{name}={value}" for name, value in values.items())
    monkeypatch.setenv("MEMCACHED_SANDBOX_ENV", given)
    with Shell(shell) as session:
        session.run(EVALUATED[shell].format(options=""))
        within = session.variables()
    assert {name: within.get(name) for name in values} == values


@pytest.mark.parametrize("name", ["my-name", "1st", "é", "x;touch owned;y", "$(touch owned)"])
def test_name_that_no_shell_has_is_wrong_usage(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    explained = f"a shell has no variable {name!r}: use letters, '_' and, except first, digits."
    result = cli("start", "--env", f"{name}=1")
    assert_one_line(result, 2, f"Invalid value for '--env': {explained}")
    monkeypatch.setenv("MEMCACHED_SANDBOX_ENV", "my-name=1")
    explained = explained.replace(repr(name), "'my-name'")
    assert_one_line(cli("start"), 2, f"Invalid value for MEMCACHED_SANDBOX_ENV: {explained}")


def test_project_uses_the_sandbox_of_the_shell(
    shell: Shell, project: Project, main_memcached: MainMemcached
) -> None:
    """The project does not name the sandbox; several commands share it."""
    shell.run(f"cd {project.folder}")
    shell.run('eval "$(sandbox start --flush never)"')
    script = f"{sys.executable} manage.py shell -v 0 -c"
    imports = "from django.core.cache import cache"
    shell.run(f'{script} \'{imports}; cache.set("key", "value")\'')
    assert shell.run(f"{script} '{imports}; print(cache.get(\"key\"))'") == "value"
    shell.run('eval "$(sandbox stop)"')
    main_memcached.assert_untouched()


def test_start_at_a_terminal_says_how_to_use_the_sandbox() -> None:
    terminal = spawn("sh", "-c", "sandbox start; true")
    terminal.expect(pexpect.EOF)
    terminal.close()
    output = printed(terminal)
    assert "export MEMCACHED_SANDBOX_ADDRESS='127.0.0.1:" in output
    assert 'to use a sandbox, run eval "$(sandbox start)".' in output


def test_error_is_one_line_and_leaves_nothing(run: Run, run_folder: Path) -> None:
    result = run("sandbox", "start", "--memcached", "/no/such/memcached")
    assert (result.returncode, result.stdout) == (125, "false\n")
    named = "--memcached /no/such/memcached: the memcached binary '/no/such/memcached'"
    assert re.fullmatch(rf"sandbox: {named} does not exist: .*\n", result.stderr)
    result = run("sandbox", "start", "--memcached", "/bin/false")
    assert (result.returncode, result.stdout) == (125, "false\n")
    assert re.fullmatch(r"sandbox: /bin/false ended with exit code 1 .*\n", result.stderr)
    assert list(run_folder.iterdir()) == []
