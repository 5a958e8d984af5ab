"""`sandbox doctor`."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from sandbox import Memcached
from sandbox.server import others
from sandbox.server.binary import find_memcached

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.installs import install_by_hand
from ..helpers.memcacheds import PlainMemcached
from ..helpers.processes import Result, eventually, is_running, read_line, script
from ..helpers.users import as_root

pytestmark = pytest.mark.whole_machine


def is_gone(group: int) -> bool:
    """Return whether no process of a process group runs."""
    running = filter(is_running, psutil.pids())
    with suppress(ProcessLookupError):
        return group not in map(os.getpgid, running)
    return False


def findings(result: Result) -> dict[str, dict[str, object]]:
    """Return the findings that `sandbox doctor --json` printed, by their checks."""
    return {finding["check"]: finding for finding in json.loads(result.stdout)}


def test_doctor_finds_no_problem(run: Run, run_folder: Path) -> None:
    result = run("sandbox", "doctor")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^memcached +/\S+memcached, 1\.\d+\.\d+", result.stdout, re.MULTILINE)
    assert re.search(r"^start +[\d.]+ ms to start, [\d.]+ ms to stop", result.stdout, re.MULTILINE)
    assert re.search(r"^flush +exact", result.stdout, re.MULTILINE)
    assert f"{run_folder}/memcached-sandbox-{os.geteuid()}" in result.stdout
    assert re.search(r"^stale +", result.stdout, re.MULTILINE)
    assert re.search(r"^django +\d+\.\d+", result.stdout, re.MULTILINE)
    assert re.search(r"^pymemcache +\d+\.\d+", result.stdout, re.MULTILINE)
    assert "PROBLEM" not in result.stdout
    verdict = "a run works here; 1 remark with an arrow" if "->" in result.stdout else "all is well"
    assert result.stdout.endswith(f"\n{verdict}\n")


def test_missing_memcached_is_a_problem(run: Run) -> None:
    result = run("sandbox", "doctor", MEMCACHED_SANDBOX_BINARY="/no/such/file")
    assert result.returncode == 1
    assert re.search(
        r"^memcached +PROBLEM: .*'/no/such/file' does not ex", result.stdout, re.MULTILINE
    )
    assert re.search(r"^ +-> correct the path; .*memcached", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("\nno run works here: 1 problem to solve\n")
    finding = findings(
        run("sandbox", "doctor", "--json", MEMCACHED_SANDBOX_BINARY="/no/such/file")
    )["memcached"]
    assert finding["fatal"] is True
    assert str(finding["remedy"]).startswith("correct the path; ")


def test_memcached_that_does_not_start_is_a_problem(run: Run) -> None:
    result = run("sandbox", "doctor", MEMCACHED_SANDBOX_BINARY="/bin/false")
    assert result.returncode == 1
    assert "/bin/false, of an unknown version" in result.stdout
    assert re.search(r"^start +PROBLEM: .*ended with exit code 1", result.stdout, re.MULTILINE)
    assert "-> name another memcached in MEMCACHED_SANDBOX_BINARY" in result.stdout


@pytest.mark.parametrize(("version", "old"), [("1.4.25", True), ("1.5.22", False)])
def test_memcached_that_is_too_old_to_list_items_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, old: bool
) -> None:
    binary = script(
        tmp_path / "old",
        f'#!/bin/sh\n[ "$1" = -V ] && exec echo memcached {version}\n'
        f'exec {shlex.join(find_memcached())} "$@"\n',
    )
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", str(binary))
    result = cli("doctor")
    assert result.returncode == 0
    assert f"{binary}, {version}\n" in result.stdout
    assert ("-> use 1.5.22 or newer: the items that" in result.stdout) == old


def test_memcached_that_cannot_list_items_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = shlex.join(find_memcached())
    binary = script(tmp_path / "poor", f'#!/bin/sh\nexec {command} "$@" -o no_lru_crawler\n')
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", str(binary))
    result = cli("doctor")
    assert re.search(r"^items +memcached answered .*lru_crawler", result.stdout, re.MULTILINE)
    assert "-> use a memcached whose crawler is not turned off\n" in result.stdout
    assert result.stdout.endswith("with an arrow\n")


def test_memcached_that_hangs_is_not_waited_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither when it is asked for its version, nor when it starts."""
    # What the script has started ends with it.
    binary = script(tmp_path / "hanging", f"#!/bin/sh\necho $$ >>{tmp_path}/pids\nsleep 1000000\n")
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", str(binary))
    result = cli("doctor")
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        eventually(partial(is_gone, pid))
    assert result.returncode == 1
    assert f"{binary}, of an unknown version\n" in result.stdout
    assert re.search(r"^start +PROBLEM: .* was not ready within 1.5 s", result.stdout, re.MULTILINE)


def test_missing_memcached_is_told_once(cli: Cli, without_memcached: Path) -> None:
    script(without_memcached / "apt-get", "")
    result = cli("doctor")
    assert result.returncode == 1
    assert result.stdout.count("sandbox install") == 1
    assert "PROBLEM: memcached was not found on PATH or in the usual folders\n" in result.stdout
    assert result.stdout.endswith("\nno run works here: 1 problem to solve\n")


def test_installed_suites_are_listed(cli: Cli, data: Path) -> None:
    install_by_hand(data, "trixie")
    result = cli("doctor")
    listed = r"^installed +trixie, memcached 1\.6\.99, package 1\.6\.99-1$"
    assert re.search(listed, result.stdout, re.MULTILINE)


def test_run_directory_that_is_a_link_is_passed_over(run: Run, tmp_path: Path) -> None:
    link = tmp_path / f"memcached-sandbox-{os.geteuid()}"
    link.symlink_to("/tmp")
    result = run("sandbox", "doctor", TMPDIR=str(tmp_path))
    assert result.returncode == 0
    assert f"({link} is a symbolic link" in result.stdout


def test_missing_folder_of_tmpdir_is_passed_over(run: Run, tmp_path: Path) -> None:
    result = run("sandbox", "doctor", TMPDIR=str(tmp_path / "nothing"))
    assert result.returncode == 0
    assert f"({tmp_path}/nothing cannot be looked at (No such file or dire" in result.stdout


def test_stale_directory_is_named_before_a_start_removes_it(cli: Cli) -> None:
    left = cli.run_directory / "00000000"
    with Memcached():
        left.mkdir()  # as an owner leaves it that is killed at once
        result = cli("doctor")
        assert f"{left}\n" in result.stdout
        assert "-> 'sandbox stop --stale' removes it, or says what is in the way" in result.stdout
        assert not left.exists()


def test_other_memcacheds_are_named_and_not_touched(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        Memcached() as server,
        PlainMemcached() as main,
        PlainMemcached("-s", str(path)) as other,
    ):
        eventually(path.exists)
        found = json.loads(run("sandbox", "doctor", "--json").stdout)
        lines = {f["found"] for f in found if f["check"] == "other memcached"}
        user = psutil.Process().username()
        assert f"pid {main.pid} of {user} at {main.address}: not touched" in lines
        assert f"pid {other.pid} of {user} at unix:{path}: not touched" in lines
        assert not any(line.startswith(f"pid {server.pid} ") for line in lines)


def test_servers_of_other_sandboxes_are_no_other_memcacheds(cli: Cli, tmp_path: Path) -> None:
    """As those of another user are, and those that another TMPDIR has."""
    program = (
        "from sandbox import Memcached\n"
        "with Memcached() as server: print(server.pid, flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        pid = int(read_line(owner))
        assert f"pid {pid} " not in cli("doctor").stdout
        owner.communicate("\n")


def test_other_memcached_with_unreadable_sockets_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command line of another user's memcached names its address."""

    def refuse(process: psutil.Process, kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr("psutil.Process.net_connections", refuse)
    path = tmp_path / "socket"
    with PlainMemcached("-s", str(path)) as other:
        eventually(path.exists)
        found = json.loads(cli("doctor", "--json").stdout)
    lines = [finding["found"] for finding in found if finding["check"] == "other memcached"]
    (line,) = (line for line in lines if line.startswith(f"pid {other.pid} "))
    assert line.endswith(f"at unix:{path}: not touched")


@as_root
def test_command_line_of_another_user_is_one_printable_line(cli: Cli) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        path = Path(folder, "\x1b[31m\n::error:: forged")
        with PlainMemcached("-u", "nobody", "-s", str(path)) as other:
            eventually(path.exists)
            result = cli("doctor")
        (line,) = (line for line in result.stdout.splitlines() if f"pid {other.pid} " in line)
        where = rf"unix:{folder}/\x1b[31m\n::error:: forged"
        assert f"of nobody at {where}: not touched" in line
        assert "\x1b" not in result.stdout
        assert "\n::error::" not in result.stdout


def test_socket_with_a_line_end_hides_no_memcached(cli: Cli, tmp_path: Path) -> None:
    """The kernel lists the sockets of all users in lines, with their paths as they are."""
    with PlainMemcached() as main, socket.socket(socket.AF_UNIX) as forged:
        forged.bind(str(tmp_path / "x\n y z"))
        result = cli("doctor")
    assert f"pid {main.pid} of {psutil.Process().username()} at {main.address}:" in result.stdout


def test_version_that_is_no_text_is_printable(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = script(
        tmp_path / "painter", "#!/bin/sh\nprintf '\\033[2J\\377\\n::error::x'; exit 1\n"
    )
    monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", str(binary))
    result = cli("doctor")
    assert result.returncode == 1
    assert f"{binary}, \\x1b[2J\N{REPLACEMENT CHARACTER}\\n::error::x\n" in result.stdout
    assert "saying: \\x1b[2J\N{REPLACEMENT CHARACTER} ::error::x before" in result.stdout


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
        ("memcached -l 127.0.0.1 -p -1", []),
        ("memcached --library-path /lib /bin/memcached -p 5", ["0.0.0.0:5"]),
        ("", []),
    ],
)
def test_addresses_on_a_command_line_of_memcached(command: str, addresses: list[str]) -> None:
    assert others._addresses_asked_for(command.split()) == addresses
