"""`sandbox stop`."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pexpect
import pytest

from sandbox import Memcached
from sandbox.registry.directories import ServerDirectory

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.memcacheds import PlainMemcached
from ..helpers.processes import eventually, printed, spawn, wait_until_gone
from ..helpers.server_directories import server_directory
from ..helpers.shells import Shell

pytestmark = pytest.mark.whole_machine


def test_stop_by_id_ends_that_server_only(cli: Cli) -> None:
    with Memcached() as server, Memcached() as other:
        name = os.path.basename(server.directory)
        result = cli("stop", name)
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == f"sandbox: stopped {name}, memcached at {server.address}.\n"
        assert server_directory(server.directory).has_exited(0)
        assert server.exit_reason() == "was killed by signal 9 (Killed)"
        other.flush()


def test_stop_with_an_unknown_id_ends_no_server(cli: Cli) -> None:
    with Memcached() as server:
        result = cli("stop", os.path.basename(server.directory), "nothing")
        assert result.returncode == 2
        server.flush()


def test_stop_all_ends_every_sandbox_server_only(cli: Cli) -> None:
    with Memcached() as server, Memcached() as other, PlainMemcached() as main:
        result = cli("stop", "--all")
        assert (result.returncode, result.stderr.count("stopped")) == (0, 2)
        assert server_directory(server.directory).has_exited(0)
        assert server_directory(other.directory).has_exited(0)
        assert main.process.poll() is None


def test_stop_all_leaves_servers_of_another_version(cli: Cli) -> None:
    with Memcached() as server:
        (Path(server.directory) / "record").write_text("memcached-sandbox 9\n")
        result = cli("stop", "--all")
        assert result.returncode == 125
        assert "another version of memcached-sandbox: stop it with the ver" in result.stderr
        server.flush()


def test_stop_with_nothing_to_do_succeeds(cli: Cli) -> None:
    result = cli("stop", "--all", "--stale")
    assert result.returncode == 0
    folder = cli.run_directory.parent
    assert result.stderr == f"sandbox: removed what 0 killed servers had left in {folder}.\n"


def test_server_that_does_not_end_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps a killed process that waits for a disk."""
    monkeypatch.setattr(ServerDirectory, "has_exited", lambda directory, patience: False)
    with Memcached() as server:
        name = os.path.basename(server.directory)
        result = cli("stop", name)
        words = f"could not stop {name}: process {server.pid} was killed, and has not ended yet."
    assert (result.returncode, result.stderr) == (125, f"sandbox: {words}\n")


def test_server_that_has_died_can_be_stopped(run: Run) -> None:
    with Memcached() as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until_gone(server.pid)
        result = run("sandbox", "stop", os.path.basename(server.directory))
        assert result.returncode == 0, result.stderr


def test_stopped_run_reports_the_end_of_its_server(run: Run) -> None:
    """A run that loses its server must not end in silence."""
    result = run("sandbox", "exec", "--", "sandbox", "stop")
    assert re.search(r"sandbox: memcached at .* was killed by signal 9", result.stderr)


def test_stop_of_one_server_ends_the_sandbox_of_a_shell(
    run: Run, shell: Shell, run_folder: Path
) -> None:
    shell.run('eval "$(sandbox start --servers 2 --env B={address2})"')
    daemon, first = shell.daemon(), shell.id()
    (run_directory,) = run_folder.iterdir()
    names = {path.name for path in run_directory.iterdir() if ServerDirectory.is_named(path.name)}
    (second,) = names - {first}
    assert run("sandbox", "stop", second).returncode == 0
    wait_until_gone(daemon.pid)
    assert list(run_folder.iterdir()) == []


def test_stop_by_id_restores_the_variables_of_the_shell(shell: Shell, run_folder: Path) -> None:
    shell.run('eval "$(sandbox start)"')
    shell.run(f'eval "$(sandbox stop {shell.id()})"')
    assert "MEMCACHED_SANDBOX_ADDRESS" not in shell.variables()
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_stop_at_a_terminal_says_how_to_restore_the_variables() -> None:
    terminal = spawn("sh", "-c", 'eval "$(sandbox start)"; sandbox stop')
    terminal.expect(pexpect.EOF)
    terminal.close()
    output = printed(terminal)
    stopped, hint = output.splitlines()
    assert "sandbox: stopped" in stopped or "sandbox: stopped" in hint
    assert 'still has the variables of the sandbox: eval "$(sandbox stop)" restores them.' in output
