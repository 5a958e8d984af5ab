"""``sandbox start``: a sandbox for a shell, that ends with it, and ``sandbox stop`` in there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import psutil
import pytest
from pymemcache import Client

from sandbox.registry import inventory
from sandbox.registry.directories import ServerDirectory

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import eventually, is_running, spawn, wait_until_gone
from ..helpers.projects import Project

EVALUATED = {
    "sh": 'eval "$(sandbox start{options})"',
    "bash": 'eval "$(sandbox start{options})"',
    "zsh": 'eval "$(sandbox start{options})"',
    "fish": "sandbox start --shell fish{options} | source",
}
FORGOTTEN = {
    "sh": 'eval "$(sandbox stop)"',
    "bash": 'eval "$(sandbox stop)"',
    "zsh": 'eval "$(sandbox stop)"',
    "fish": "sandbox stop | source",
}
each_shell = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"there is no {name} here"),
        )
        for name in EVALUATED
    ],
)


class Shell:
    """A shell that reads its commands from us, line by line."""

    def __init__(self, name: str) -> None:
        # fish reads a script to its end before it begins.
        line_by_line = ["-c", "while read --local line; eval $line; end"] if name == "fish" else []
        self.process = subprocess.Popen(
            [name, *line_by_line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, line: str) -> str:
        """Run a line and return what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\necho; echo END-OF-OUTPUT\n")
        self.process.stdin.flush()
        output = ""
        while not output.endswith("\nEND-OF-OUTPUT\n"):
            more = self.process.stdout.readline()
            assert more, output
            output += more
        return output.removesuffix("\nEND-OF-OUTPUT\n").removesuffix("\n")

    def variables(self) -> dict[str, str]:
        pairs = (line.partition("=") for line in self.run("env").splitlines())
        return {name: value for name, _, value in pairs}

    def server(self) -> psutil.Process:
        """The memcached of the sandbox that was started here."""
        return psutil.Process(int(self.variables()["MEMCACHED_SANDBOX_PID"]))

    def id(self) -> str:
        """The ID of the server that was started first."""
        pid = self.server().pid
        (server,) = (s for s in inventory.servers()[0] if s.record.server.pid == pid)
        return server.directory.name

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def project(tmp_path: Path, run: Run, main_memcached: MainMemcached) -> Project:
    return Project(tmp_path, run, main_memcached.address)


@pytest.fixture
def shell() -> Iterator[Shell]:
    shell = Shell("sh")
    yield shell
    shell.end()


@each_shell
def test_from_start_to_stop(run: Run, run_folder: Path, shell: str) -> None:
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


@each_shell
def test_it_ends_with_its_shell(run: Run, run_folder: Path, shell: str) -> None:
    session = Shell(shell)
    session.run(EVALUATED[shell].format(options=""))
    server = session.server()
    session.end()
    wait_until_gone(server.pid)
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_values_of_any_kind(shell: Shell, tmp_path: Path) -> None:
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
def test_values_of_any_kind_in_fish() -> None:
    session = Shell("fish")
    odd = "a'b\"c $HOME (id) \\ \\' ü;&"
    command = ["sandbox", "start", "--shell", "fish", "--env", f"URL={odd}{{port}}", "--ttl", "60s"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("set -gx URL")]
    session.run(line)
    assert re.fullmatch(re.escape(odd) + r"\d+", session.variables()["URL"])
    session.end()
    (control,) = re.findall("SANDBOX_CONTROL '(.*)'", printed)
    env = {**os.environ, "MEMCACHED_SANDBOX_CONTROL": control}
    subprocess.run(["sandbox", "stop"], env=env, capture_output=True, check=True)


def test_a_project_uses_it(shell: Shell, project: Project, main_memcached: MainMemcached) -> None:
    """Without a word of it in the project, and for as many commands as one likes."""
    shell.run(f"cd {project.folder}")
    shell.run('eval "$(sandbox start --flush never)"')
    script = f"{sys.executable} manage.py shell -v 0 -c"
    imports = "from django.core.cache import cache"
    shell.run(f'{script} \'{imports}; cache.set("key", "value")\'')
    assert shell.run(f"{script} '{imports}; print(cache.get(\"key\"))'") == "value"
    shell.run('eval "$(sandbox stop)"')
    main_memcached.assert_untouched()


def test_ttl(run: Run, shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start --ttl 2s)"')
    wait_until_gone(shell.server().pid)
    eventually(lambda: list(run_folder.iterdir()) == [])
    assert shell.process.poll() is None


def test_after_its_end_a_project_is_told_what_to_do(
    run: Run, shell: Shell, project: Project, run_folder: Path
) -> None:
    """Going on with the main memcached would be the wrong thing, and so would be silence."""
    shell.run(f"cd {project.folder}")
    shell.run('eval "$(sandbox start)"')
    control = shell.variables()["MEMCACHED_SANDBOX_CONTROL"]
    run("sandbox", "stop", shell.id())
    eventually(lambda: not os.path.exists(control))
    said = shell.run(f"{sys.executable} manage.py check 2>&1 | grep ^sandbox:")
    assert said.startswith("sandbox: the sandbox of this run has ended: nobody listens at ")
    assert "start another, or 'sandbox stop' if it was that of a shell" in said
    assert shell.run('eval "$(sandbox stop)"') == ""
    assert "MEMCACHED_SANDBOX_ADDRESS" not in shell.variables()


def test_it_does_not_hold_what_it_inherited(run: Run, run_folder: Path) -> None:
    """Who reads from a pipe that the shell had open is not to wait for hours."""
    result = run("sh", "-c", 'exec 7>&1; eval "$(sandbox start)"; echo started; sleep 0')
    assert result.stdout == "started\n"
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_through_a_subshell_and_a_wrapper(run: Run, run_folder: Path, tmp_path: Path) -> None:
    """The shell that asked is the one that reads, not what stands between it and us."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nsandbox "$@"; exit\n')
    wrapper.chmod(0o755)
    session = Shell("sh")
    session.run(f'eval "$(true; {wrapper} start; true)"')
    server = session.server()
    time.sleep(0.3)  # that nothing happens is no event
    assert is_running(server.pid)
    session.end()
    wait_until_gone(server.pid)


def test_memcached_dies(run: Run, shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start)"')
    shell.server().kill()
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_its_keeper_is_killed(run: Run, shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start)"')
    server = shell.server()
    server.parent().kill()
    wait_until_gone(server.pid)
    eventually(lambda: list(run_folder.iterdir()) == [])


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_its_keeper_is_told_to_end(run: Run, shell: Shell, run_folder: Path, name: str) -> None:
    shell.run('eval "$(sandbox start)"')
    keeper = shell.server().parent()
    keeper.send_signal(getattr(signal, f"SIG{name}"))
    wait_until_gone(keeper.pid)
    assert list(run_folder.iterdir()) == []


def test_stop_of_one_server_ends_the_sandbox(run: Run, shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start --servers 2)"')
    keeper, first = shell.server().parent(), shell.id()
    (run_directory,) = run_folder.iterdir()
    names = {path.name for path in run_directory.iterdir() if ServerDirectory.is_named(path.name)}
    (second,) = names - {first}
    assert run("sandbox", "stop", second).returncode == 0
    wait_until_gone(keeper.pid)
    assert list(run_folder.iterdir()) == []


def test_stop_by_id_has_the_shell_forget_it_too(shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start)"')
    shell.run(f'eval "$(sandbox stop {shell.id()})"')
    assert "MEMCACHED_SANDBOX_ADDRESS" not in shell.variables()
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_errors_are_one_line_and_leave_nothing(run: Run, run_folder: Path) -> None:
    result = run("sandbox", "start", "--memcached", "/no/such/memcached")
    assert (result.returncode, result.stdout) == (125, "")
    assert re.fullmatch(
        r"sandbox: the memcached binary '/no/such/memcached' does .*\n", result.stderr
    )
    result = run("sandbox", "start", "--memcached", "/bin/false")
    assert (result.returncode, result.stdout) == (125, "")
    assert re.fullmatch(r"sandbox: /bin/false ended with exit code 1 .*\n", result.stderr)
    assert list(run_folder.iterdir()) == []


def test_at_a_terminal_stop_says_how_to_forget() -> None:
    terminal = spawn("sh", "-c", 'eval "$(sandbox start)"; sandbox stop')
    terminal.expect(pexpect.EOF)
    terminal.close()
    stopped, hint = terminal.before.splitlines()
    assert "sandbox: stopped" in stopped or "sandbox: stopped" in hint
    assert 'this shell\'s variables still lead to the sandbox: eval "$(sandbox stop)"' in (
        terminal.before
    )


def test_at_a_terminal_start_says_how_it_is_used(run_folder: Path) -> None:
    terminal = spawn("sh", "-c", "sandbox start; true")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "export MEMCACHED_SANDBOX_ADDRESS=127.0.0.1:" in terminal.before
    assert 'to use a sandbox, run eval "$(sandbox start)".' in terminal.before


def test_an_inner_exec_without_injection_undoes_that_of_the_shell(shell: Shell) -> None:
    shell.run("unset PYTHONPATH")
    shell.run('eval "$(sandbox start)"')
    assert shell.run("sandbox exec -q --no-inject -- sh -c 'echo $PYTHONPATH'") == ""
    said = shell.run("sandbox exec -q --no-guard -- sh -c 'echo [$MEMCACHED_SANDBOX_GUARDED]'")
    assert said == "[]"
