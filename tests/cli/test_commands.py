"""``sandbox list``, ``stop`` and ``doctor``: what people and programs are told of what runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pexpect
import psutil
import pytest

from sandbox import Memcached
from sandbox.registry.directories import ServerDirectory
from sandbox.server import others

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.memcacheds import PlainMemcached
from ..helpers.processes import eventually, spawn, wait_until_gone

pytestmark = pytest.mark.whole_machine


@pytest.mark.parametrize("command", ["exec", "start", "stop", "list", "doctor"])
def test_help_has_an_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.returncode == 0
    assert re.search(rf"^ +.*sandbox {command}", result.stdout.partition("\n")[2], re.MULTILINE)
    assert f"  {command} " in cli("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lsit"], "No such command 'lsit'. See 'sandbox --help'."),
        (["list", "--yaml"], "No such option"),
        (["list", "5a5f89de"], "Got unexpected extra argument (5a5f89de)"),
        (["stop"], "This shell has no sandbox: give an ID, --all or --stale."),
        (["stop", "nothing"], "There is no sandbox 'nothing': 'sandbox list' shows those that"),
        (["stop", "--shell", "tcsh"], "Invalid value for '--shell': 'tcsh' is not one of"),
        (["start", "--ttl", "soon"], "Invalid value for '--ttl': 'soon' is not a time: give 45s,"),
        (["start", "--ttl", "0s"], "Invalid value for '--ttl': '0s' is out of range: give 1s to"),
        (["start", "--ttl", "8d"], "Invalid value for '--ttl': '8d' is out of range: give 1s to"),
        (["start", "-m", "0"], "--memory 0: must be 1 or more. See 'sandbox start --help'."),
        (["start", "true"], "Got unexpected extra argument (true)"),
        (["doctor", "me"], "Got unexpected extra argument (me)"),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"sandbox: {message}"), result.stderr
    assert result.stderr.count("\n") == 1


class TestList:
    def test_nothing(self, cli: Cli) -> None:
        result = cli("list")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == "sandbox: no sandbox runs.\n"
        assert cli("list", "--json").stdout == "[]\n"

    def test_json(self, cli: Cli) -> None:
        with Memcached(memory_mb=32) as server, Memcached(unix_socket=True) as second:
            with closing(server.client()) as client:
                client.set("key", "x" * 1000, noreply=False)
            result = cli("list", "--json")
            assert (result.returncode, result.stderr) == (0, "")
            first, other = json.loads(result.stdout)
            assert first["id"] == os.path.basename(server.directory)
            assert first["address"] == server.address
            assert first["pid"] == server.pid
            assert first["memory"] == 32 * 1024 * 1024
            assert 1000 < first["memory_used"] < 2000
            assert first["items"] == 1
            assert 0 <= first["age"] < 60
            assert first["owner"]["pid"] == os.getpid()
            assert first["owner"]["command"] == psutil.Process().cmdline()
            assert (other["address"], other["items"]) == (second.address, 0)

    def test_table(self, cli: Cli) -> None:
        with Memcached() as server:
            result = cli("list")
            headings, row = result.stdout.splitlines()
            assert headings.split() == ["ID", "ADDRESS", "PID", "MEMORY", "ITEMS", "AGE", "COMMAND"]
            match = re.match(r"(\w+)  (\S+) +(\d+) +0\.0 of 64 MB +0 +\d+s +(\S+)", row)
            assert match is not None
            assert match.groups()[:3] == (
                os.path.basename(server.directory),
                server.address,
                str(server.pid),
            )
            assert psutil.Process().cmdline()[0] in row

    def test_an_owner_whose_command_has_more_than_one_line(self, cli: Cli) -> None:
        script = (
            "import sys # \x1b[31m\nfrom sandbox import Memcached\n"
            "with Memcached() as server: print(server.pid, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, b"\xff"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as owner:
            assert owner.stdout is not None
            owner.stdout.readline()
            lines = cli("list").stdout.splitlines()
            owner.communicate()
        assert len(lines) == 2
        assert lines[1].isprintable()
        assert "from sandbox import Memcached" in lines[1]

    def test_in_the_width_of_the_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        with Memcached(), spawn("sandbox", "list", dimensions=(24, 60)) as terminal:
            terminal.expect(pexpect.EOF)
            lines = terminal.before.splitlines()
            assert len(lines) >= 2
            assert max(map(len, lines)) == 60
            assert lines[1].endswith("...")

    def test_one_that_hangs(self, cli: Cli) -> None:
        with Memcached() as server:
            os.kill(server.pid, signal.SIGSTOP)
            result = cli("list")
            assert re.search(rf" {server.pid} +no answer ", result.stdout)
            (entry,) = json.loads(cli("list", "--json").stdout)
            assert (entry["memory_used"], entry["items"]) == (None, None)

    def test_one_of_another_version(self, cli: Cli) -> None:
        with Memcached() as server:
            (Path(server.directory) / "record").write_text("memcached-sandbox 9\n")
            result = cli("list")
            assert result.stdout == ""
            assert result.stderr == (
                f"sandbox: {server.directory} has the record of another version of "
                "memcached-sandbox.\n"
            )
            assert result.returncode == 0

    def test_those_in_another_run_directory(self, run: Run, tmp_path: Path) -> None:
        """TMPDIR of one shell need not be that of another."""
        with Memcached() as server:
            other = run("sandbox", "list", TMPDIR=str(tmp_path))
            assert server.address in other.stdout


class TestStop:
    def test_by_id(self, cli: Cli) -> None:
        with Memcached() as server, Memcached() as other:
            name = os.path.basename(server.directory)
            result = cli("stop", name)
            assert (result.returncode, result.stdout) == (0, "")
            assert result.stderr == f"sandbox: stopped {name}, memcached at {server.address}.\n"
            assert ServerDirectory(server.directory).has_exited(0)
            assert server.exit_reason() == "was killed by signal 9 (Killed)"
            other.flush()

    def test_one_that_does_not_end(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        """A kernel that is waiting for a disk keeps a killed process."""
        monkeypatch.setattr(ServerDirectory, "has_exited", lambda directory, patience: False)
        with Memcached() as server:
            name = os.path.basename(server.directory)
            result = cli("stop", name)
            words = (
                f"could not stop {name}: process {server.pid} is still running; "
                f"run 'kill -9 {server.pid}'."
            )
        assert (result.returncode, result.stderr) == (125, f"sandbox: {words}\n")

    def test_all_or_nothing(self, cli: Cli) -> None:
        with Memcached() as server:
            result = cli("stop", os.path.basename(server.directory), "nothing")
            assert result.returncode == 2
            server.flush()

    def test_all(self, cli: Cli) -> None:
        with Memcached() as server, Memcached() as other, PlainMemcached() as main:
            result = cli("stop", "--all")
            assert (result.returncode, result.stderr.count("stopped")) == (0, 2)
            assert ServerDirectory(server.directory).has_exited(0)
            assert ServerDirectory(other.directory).has_exited(0)
            assert main.process.poll() is None

    def test_all_of_a_version_that_is_not_understood(self, cli: Cli) -> None:
        with Memcached() as server:
            (Path(server.directory) / "record").write_text("memcached-sandbox 9\n")
            result = cli("stop", "--all")
            assert result.returncode == 125
            assert "another version of memcached-sandbox: stop it with the ver" in result.stderr
            server.flush()

    def test_the_run_is_told(self, run: Run) -> None:
        """What it had was taken from it: the run must not end as if nothing had been."""
        result = run("sandbox", "exec", "--", "sandbox", "stop")
        assert re.search(r"sandbox: memcached at .* was killed by signal 9", result.stderr)

    def test_nothing_to_do(self, cli: Cli) -> None:
        result = cli("stop", "--all", "--stale")
        assert result.returncode == 0
        assert result.stderr == "sandbox: removed what 0 killed servers had left.\n"


class TestDoctor:
    def findings(self, result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
        return {finding["check"]: finding for finding in json.loads(result.stdout)}

    def test_all_is_well(self, run: Run, run_folder: Path) -> None:
        result = run("sandbox", "doctor")
        assert (result.returncode, result.stderr) == (0, "")
        assert re.search(r"^memcached +/\S+memcached, 1\.\d+\.\d+", result.stdout, re.MULTILINE)
        assert re.search(
            r"^start +[\d.]+ ms to start, [\d.]+ ms to stop", result.stdout, re.MULTILINE
        )
        assert f"{run_folder}/memcached-sandbox-{os.geteuid()}" in result.stdout
        assert re.search(r"^stale +", result.stdout, re.MULTILINE)
        assert re.search(r"^django +\d+\.\d+", result.stdout, re.MULTILINE)
        assert re.search(r"^pymemcache +\d+\.\d+", result.stdout, re.MULTILINE)
        assert "PROBLEM" not in result.stdout

    def test_other_memcacheds_are_told_and_not_touched(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with (
            Memcached() as ours,
            PlainMemcached() as main,
            PlainMemcached("-s", str(path)) as other,
        ):
            eventually(path.exists)
            found = json.loads(run("sandbox", "doctor", "--json").stdout)
            lines = {f["found"] for f in found if f["check"] == "other memcached"}
            user = psutil.Process().username()
            assert f"pid {main.pid} of {user} at {main.address}: not touched" in lines
            assert f"pid {other.pid} of {user} at unix:{path}: not touched" in lines
            assert not any(line.startswith(f"pid {ours.pid} ") for line in lines)

    def test_one_whose_sockets_may_not_be_looked_at(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Such as another user's: its command line tells where it listens."""

        def refuse(process: psutil.Process, kind: str) -> None:
            raise psutil.AccessDenied

        monkeypatch.setattr("psutil.Process.net_connections", refuse)
        path = tmp_path / "socket"
        with PlainMemcached("-s", str(path)) as other:
            eventually(path.exists)
            if "--argv0" in psutil.Process(other.pid).cmdline():
                pytest.skip("this memcached runs through its loader, whose options come first")
            found = json.loads(cli("doctor", "--json").stdout)
        lines = [finding["found"] for finding in found if finding["check"] == "other memcached"]
        (line,) = (line for line in lines if line.startswith(f"pid {other.pid} "))
        assert line.endswith(f"at unix:{path}: not touched")

    @pytest.mark.parametrize(
        ("command", "addresses"),
        [
            ("memcached", ["0.0.0.0:11211"]),
            ("memcached -m 64 -p 5 -u nobody", ["0.0.0.0:5"]),
            ("memcached -p5 -l a,b", ["a:5", "b:5"]),
            ("memcached --port=5 --listen=::1", ["[::1]:5"]),
            ("memcached -l ::1 -p 5 -vv", ["[::1]:5"]),
            ("memcached --unix-socket=/x", ["unix:/x"]),
            ("memcached -s /x -p 5", ["unix:/x"]),
            ("memcached --no-such-option", []),
            ("", []),
        ],
    )
    def test_addresses_of_a_command_line(self, command: str, addresses: list[str]) -> None:
        assert others._addresses_asked_for(command.split()) == addresses

    def test_no_memcached(self, run: Run) -> None:
        result = run("sandbox", "doctor", MEMCACHED_SANDBOX_BINARY="/no/such/file")
        assert result.returncode == 1
        assert re.search(
            r"^memcached +PROBLEM: .*'/no/such/file' does not ex", result.stdout, re.MULTILINE
        )
        assert re.search(r"^ +-> install it with '.*'$", result.stdout, re.MULTILINE)
        finding = self.findings(
            run("sandbox", "doctor", "--json", MEMCACHED_SANDBOX_BINARY="/no/such/file")
        )["memcached"]
        assert finding["fatal"] is True
        assert "install it with" in str(finding["remedy"])

    def test_a_memcached_that_does_not_start(self, run: Run) -> None:
        result = run("sandbox", "doctor", MEMCACHED_SANDBOX_BINARY="/bin/false")
        assert result.returncode == 1
        assert "/bin/false, which does not tell its version" in result.stdout
        assert re.search(r"^start +PROBLEM: .*ended with exit code 1", result.stdout, re.MULTILINE)
        assert "-> name another memcached in MEMCACHED_SANDBOX_BINARY" in result.stdout

    def test_a_run_directory_that_is_not_ours(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / f"memcached-sandbox-{os.geteuid()}").symlink_to("/tmp")
        result = run("sandbox", "doctor", TMPDIR=str(tmp_path))
        assert result.returncode == 1
        assert re.search(
            "^run directory +PROBLEM: .* is a symbolic link$", result.stdout, re.MULTILINE
        )
        assert "-> remove it, or point TMPDIR to a folder of yours" in result.stdout

    def test_what_is_stale(self, cli: Cli) -> None:
        left = cli.run_directory / "00000000"
        with Memcached():
            left.mkdir()
            result = cli("doctor")
            assert f"{left}\n" in result.stdout
            assert (
                "-> 'sandbox stop --stale' removes it, or says what is in the way" in result.stdout
            )
            assert not left.exists()

    def test_a_folder_that_is_passed_over(self, run: Run, tmp_path: Path) -> None:
        result = run("sandbox", "doctor", TMPDIR=str(tmp_path / "nothing"))
        assert result.returncode == 0
        assert f"({tmp_path}/nothing cannot be looked at (No such file or dire" in result.stdout


def test_secrets_are_not_written(run: Run, run_folder: Path) -> None:
    """Neither into a record nor into what memcached says, nor into what we say of a run."""
    result = run(
        "sandbox", "exec", "-v", "--env", "TOKEN=hunter2-{port}", "--", sys.executable, "-c",
        "import os, pathlib\n"
        "files = [f for f in pathlib.Path(os.environ['TMPDIR']).rglob('*') if f.is_file()]\n"
        "print(len(files), any(b'hunter2' in f.read_bytes() for f in files))\n",
        PASSWORD="hunter2",
    )  # fmt: skip
    assert result.stdout == "2 False\n"
    assert "hunter2" not in result.stderr


def test_the_environment_does_not_reach_the_shell(run: Run, tmp_path: Path) -> None:
    """A shell takes functions from its environment, and the reaper is one."""
    script = "from sandbox import Memcached; Memcached().start(); import os; os.kill(os.getpid(),9)"
    variables = {
        "BASH_FUNC_read%%": "() { touch owned; }",
        "BASH_FUNC_rm%%": "() { touch owned; }",
        "ENV": "touch owned",
        "BASH_ENV": "touch owned",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    (tmp_path / "rm").write_text("#!/bin/sh\ntouch owned\n")
    (tmp_path / "rm").chmod(0o755)
    assert run(sys.executable, "-c", script, **variables).returncode == -signal.SIGKILL
    folder = Path(os.environ["TMPDIR"])
    eventually(lambda: list(folder.iterdir()) == [])
    assert not (tmp_path / "owned").exists()


def test_stop_waits_for_nothing_that_is_gone(run: Run) -> None:
    with Memcached() as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until_gone(server.pid)
        result = run("sandbox", "stop", os.path.basename(server.directory))
        assert result.returncode == 0, result.stderr
