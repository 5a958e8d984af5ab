"""`sandbox stop` restores the variables of a shell as they were before `sandbox start`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.cli.shells import statements
from sandbox.errors import SandboxError
from sandbox.inject import FOLDER

from ..helpers.cli import Cli, assert_one_line
from ..helpers.shells import EVALUATED, FORGOTTEN, Shell, each_shell, if_here

START, STOP = EVALUATED["sh"], FORGOTTEN["sh"]

CHANGING = {"_", "SHLVL", "PWD", "OLDPWD"}  # by the shell itself


def lasting(session: Shell) -> dict[str, str]:
    return {n: value for n, value in session.variables().items() if n not in CHANGING}


@each_shell
def test_variables_of_env_are_restored(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    """Those that were set, those that were empty, and those that were not set."""
    odd = 'it\'s "$HOME" \\ `id` =ls ü'
    for name, value in {"CACHE_URL": odd, "EMPTY": "", "PYTHONPATH": "/a::/b:"}.items():
        monkeypatch.setenv(name, value)
    given = ["CACHE_URL=x", "EMPTY=x", "NEW=x", "PATH=/new:{path}", "PYTHONPATH=/c"]
    with Shell(shell) as session:
        before = lasting(session)
        options = " ".join(f"--env {each}" for each in given).format(path=before["PATH"])
        session.run(EVALUATED[shell].format(options=f" {options}"))
        within = session.variables()
        assert [within[name] for name in ("CACHE_URL", "EMPTY", "NEW")] == ["x", "x", "x"]
        assert within["PATH"] == f"/new:{before['PATH']}"
        session.run(FORGOTTEN[shell])
        assert lasting(session) == before


@each_shell
def test_variable_that_the_shell_refuses_spoils_no_other(shell: str) -> None:
    """A read-only one ends what zsh evaluates."""
    name = {"sh": "PPID", "bash": "UID", "zsh": "status", "fish": "status"}[shell]
    with Shell(shell) as session:
        before = lasting(session)
        session.run(f"{EVALUATED[shell]} 2>&1".format(options=f" --env {name}=1"))
        assert session.server().name() == "memcached"
        session.run(FORGOTTEN[shell])
        assert lasting(session) | {name: ""} == before | {name: ""}  # bash exports it all the same


def test_variables_that_the_user_has_changed_are_kept(shell: Shell) -> None:
    shell.run("export CHANGED=before REMOVED=before PYTHONPATH=/before PYTEST_PLUGINS=before")
    shell.run(START.format(options=" --env CHANGED=x --env REMOVED=x"))
    shell.run("export CHANGED=after PYTHONPATH=/after:$PYTHONPATH; unset REMOVED PYTEST_PLUGINS")
    shell.run(STOP)
    variables = shell.variables()
    assert variables["CHANGED"] == "after"
    assert variables["PYTHONPATH"] == "/after:/before"
    assert not {"REMOVED", "PYTEST_PLUGINS"} & variables.keys()


def test_start_after_a_sandbox_has_ended_replaces_its_variables(shell: Shell) -> None:
    shell.run("export ONE=before BOTH=before PYTHONPATH=/before; unset OTHER")
    before = lasting(shell)
    shell.run(START.format(options=" --env ONE=first --env BOTH=first --env OTHER=first"))
    first = shell.server()
    shell.run("sandbox stop > /dev/null 2>&1")
    shell.run(START.format(options=" --env BOTH=second"))
    within = shell.variables()
    assert (within["ONE"], within["BOTH"], within.get("OTHER")) == ("before", "second", None)
    assert within["PYTHONPATH"] == f"{FOLDER}:/before"
    assert shell.server() != first
    shell.run(STOP)
    assert lasting(shell) == before


@pytest.mark.parametrize("kind", [if_here("zsh"), if_here("bash")])
def test_second_start_survives_a_variable_that_the_shell_refuses(kind: str) -> None:
    """Those of the second start are set before it, whatever the first one had set."""
    name = {"bash": "UID", "zsh": "status"}[kind]
    with Shell(kind) as session:
        session.run(f"{EVALUATED[kind]} 2>&1".format(options=f" --env {name}=1"))
        first = session.server()
        session.run("sandbox stop > /dev/null 2>&1")
        session.run(f"{EVALUATED[kind]} 2>&1".format(options=f" --env {name}=2"))
        assert session.server() != first
        session.run(FORGOTTEN[kind])
        assert "MEMCACHED_SANDBOX_CONTROL" not in session.variables()


def test_command_in_a_shell_has_nothing_to_restore(shell: Shell) -> None:
    """It has a run of its own, and what it starts would leave that run."""
    shell.run(START.format(options=""))
    inner = 'eval "$(sandbox start)"; eval "$(sandbox stop)"; echo $PYTHONPATH'
    assert FOLDER in shell.run(f"sandbox exec -q -- sh -c '{inner}'")


@pytest.mark.whole_machine
@pytest.mark.parametrize(
    "record",
    [
        "X;touch owned",
        "[]",
        "3",
        "[" * 100_000,
        '{"X;touch owned": [null, ""]}',
        '{"X": "value"}',
        '{"X": [null, null]}',
        '{"X": [3, ""]}',
        '{"X": ["\\ud800", ""]}',
        '{"X": ["\\u0000", ""]}',
        '{"X": [null, "a\\u0000b"]}',
    ],
    ids=lambda record: record[:20],
)
def test_record_of_anything_else_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: str
) -> None:
    monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", f"{tmp_path}/run-1/socket")
    monkeypatch.setenv("MEMCACHED_SANDBOX_BEFORE", record)
    for command in ("start", "stop"):
        result = cli(command)
        assert_one_line(result, 125, f"MEMCACHED_SANDBOX_BEFORE={record[:80]!r} is not what 'sand")
        assert "run 'unset MEMCACHED_SANDBOX_BEFORE', or open another shell." in result.stderr


@pytest.mark.parametrize("shell", ["sh", "fish"])
@pytest.mark.parametrize("value", ["1", None])
@pytest.mark.parametrize("name", ["my-name", "1st", "x;touch owned", "x\n", ""])
def test_name_that_no_shell_has_is_not_printed(name: str, value: str | None, shell: str) -> None:
    with pytest.raises(SandboxError, match="a shell has no variable"):
        statements({"RIGHT": "1", name: value}, shell)


def test_names_that_are_in_the_environment_are_not_evaluated(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", f"{tmp_path}/run-1/socket")
    monkeypatch.setenv("MEMCACHED_SANDBOX_VARIABLES", "x;touch owned")
    monkeypatch.setenv("X", "now")
    monkeypatch.setenv("MEMCACHED_SANDBOX_BEFORE", json.dumps({"X": ["$(touch owned)'", "now"]}))
    result = cli("stop")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "unset MEMCACHED_SANDBOX_BEFORE\nexport X='$(touch owned)'\\'''\n"
