"""`sandbox break`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.run.control import Control
from sandbox.run.sandbox import Sandbox

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.processes import eventually, read_line
from ..helpers.shells import Shell

pytestmark = pytest.mark.whole_machine


@pytest.fixture
def server(run_folder: Path) -> Iterator[Memcached]:
    """A server as `sandbox exec` has them, which listens to other processes."""
    with Sandbox() as sandbox:
        (server,) = sandbox.launch(1)
        server.wait()
        control = Control(sandbox, sandbox.control_directory.socket)
        yield server
        control.stop()


def id_of(server: Memcached) -> str:
    return os.path.basename(server.directory)


def breaking(server: Memcached, *arguments: str) -> subprocess.Popen[str]:
    command = ["sandbox", "break", id_of(server), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_error(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.parametrize("kind", ["down", "hung", "full"])
def test_ctrl_c_mends_the_server(server: Memcached, cli: Cli, kind: str) -> None:
    with breaking(server, kind) as process:
        place = f"memcached at {server.address}"
        assert read_error(process) == f"sandbox: {place} is {kind}: Ctrl-C mends it.\n"
        assert server.outage == kind
        row = cli("list").stdout.splitlines()[1].split()
        assert kind in row
        assert_one_line(cli("break", id_of(server), "down"), 125, f"is {kind} already: end that")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
        assert (out, error, process.returncode) == ("", f"sandbox: {place} was mended.\n", 0)
    assert server.outage == ""
    server.flush()


def test_server_is_mended_after_a_time(server: Memcached, cli: Cli) -> None:
    result = cli("break", id_of(server), "hung", "--for", "1s")
    place = f"sandbox: memcached at {server.address}"
    assert result.stderr == (
        f"{place} is hung: for 1 s; Ctrl-C mends it before.\n{place} was mended.\n"
    )
    assert result.returncode == 0
    server.flush()


def test_stop_ends_a_server_in_an_outage(server: Memcached, cli: Cli) -> None:
    for kind in ("down", "hung", "full"):
        with breaking(server, kind) as process:
            assert f" is {kind}: " in read_error(process)
            result = cli("stop", id_of(server))
            assert_one_line(result, 0, f"stopped {id_of(server)}, memcached at {server.address}.")
            assert server.exit_reason() == "was killed by signal 9 (Killed)"
            process.send_signal(signal.SIGINT)
            process.communicate()
        server.stop()
        server.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_server_is_mended_when_the_command_is_killed(server: Memcached, number: int) -> None:
    with breaking(server, "down") as process:
        assert " is down: " in read_error(process)
        process.send_signal(number)
    eventually(lambda: not server.outage)
    server.flush()


def test_end_of_a_test_mends_it_before(server: Memcached) -> None:
    with breaking(server, "down") as process:
        assert " is down: " in read_error(process)
        server.mend()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
        assert (
            error == f"sandbox: memcached at {server.address} was mended, by the end of a test.\n"
        )
        assert process.returncode == 0


def test_restart_is_over_at_once(server: Memcached, cli: Cli) -> None:
    pid = server.pid
    result = cli("break", id_of(server), "restart")
    assert_one_line(result, 0, f"memcached at {server.address} was started anew.")
    assert server.pid != pid
    result = cli("break", id_of(server), "restart", "--for", "1s")
    assert_one_line(result, 2, "A restart takes no --for: it is over at once.")


def test_mistakes_are_told(server: Memcached, cli: Cli) -> None:
    result = cli("break", id_of(server), "dwn")
    assert_one_line(result, 2, "'dwn' is not one of 'down', 'hung', 'full', 'restart'.")
    assert_one_line(cli("break", "nothing", "down"), 2, "There is no sandbox 'nothing' in ")
    result = cli("break", id_of(server), "down", "--for", "5")
    assert_one_line(result, 2, "'5' is not a time: give 45s, 90m, 8h or 2d.")
    assert server.outage == ""


def test_server_of_a_process_that_does_not_listen_is_left_alone(cli: Cli) -> None:
    with Memcached() as server:
        result = cli("break", id_of(server), "down")
        assert_one_line(result, 2, "call down(), hung(), full() or restart() of its server there")
        assert f"{id_of(server)} belongs to process {os.getpid()} (" in result.stderr
        server.flush()


def test_sandbox_of_a_shell_outlives_outages(shell: Shell, run: Run) -> None:
    """Its keeper takes the end of its server in an outage for no death."""
    shell.run('eval "$(sandbox start)"')
    name, daemon = shell.id(), shell.daemon()
    for how in (["down", "--for", "1s"], ["restart"], ["full", "--for", "1s"]):
        result = run("sandbox", "break", name, *how)
        assert result.returncode == 0, result.stderr
    rows = [line for line in shell.run("sandbox list").splitlines() if line.startswith(name)]
    assert len(rows) == 1
    assert "0.0 of 64 MB" in rows[0]
    assert daemon.is_running()
    shell.run('eval "$(sandbox stop)"')


def test_break_of_a_run_under_exec(cli: Cli) -> None:
    """exec takes the end of its server in an outage for no death, and mends it at the end."""
    program = "read line; sandbox list >&2; exec sleep 0"
    with subprocess.Popen(
        ["sandbox", "exec", "--", "sh", "-c", f'echo "$MEMCACHED_SANDBOX_ADDRESS"; {program}'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        address = read_line(run).strip()
        (name,) = (line.split()[0] for line in cli("list").stdout.splitlines() if address in line)
        with subprocess.Popen(
            ["sandbox", "break", name, "down"], stderr=subprocess.PIPE, text=True
        ) as process:
            assert f"{address} is down" in read_error(process)
            _, error = run.communicate("\n")
            assert run.returncode == 0
            assert f"{name}  {address}" in error
            assert " down " in error
            assert "0 gets, 0 sets, 0 evictions, 1 outage, peak memory" in error
            assert "killed" not in error
            _, error = process.communicate()
            assert error == f"sandbox: the sandbox of memcached at {address} has ended.\n"
            assert process.returncode == 0
