"""`sandbox list`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from itertools import repeat
from pathlib import Path
from threading import Barrier

import pexpect
import psutil
import pytest

from sandbox import Memcached

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.processes import found, printed, spawn
from ..helpers.rogues import counters, rogue, slowly

pytestmark = pytest.mark.whole_machine


def test_list_without_servers(cli: Cli) -> None:
    result = cli("list")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"sandbox: no sandbox runs in {cli.run_directory.parent}.\n"
    assert cli("list", "--json").stdout == "[]\n"


def test_json_has_all_about_each_server(cli: Cli) -> None:
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
        assert first["version"].startswith("1.")
        assert 0 <= first["age"] < 60
        assert first["owner"]["pid"] == os.getpid()
        assert first["owner"]["command"] == psutil.Process().cmdline()
        assert (other["address"], other["items"]) == (second.address, 0)


def test_table_has_a_row_for_each_server(cli: Cli) -> None:
    with Memcached() as server:
        result = cli("list")
        headings, row = result.stdout.splitlines()
        assert " ".join(headings.split()) == "ID ADDRESS PID VERSION MEMORY ITEMS AGE COMMAND"
        match = found(r"^(\w+)  (\S+) +(\d+) +1\.\S+ +0\.0 of 64 MB +0 +\d+s +(\S+)", row)
        assert match.groups()[:3] == (
            os.path.basename(server.directory),
            server.address,
            str(server.pid),
        )
        assert psutil.Process().cmdline()[0] in row


def test_table_fits_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with Memcached(), spawn("sandbox", "list", dimensions=(24, 60)) as terminal:
        terminal.expect(pexpect.EOF)
        lines = printed(terminal).splitlines()
        assert len(lines) >= 2
        assert max(map(len, lines)) == 60
        assert lines[1].endswith("...")


def test_owner_with_a_command_of_many_lines_takes_one_row(cli: Cli) -> None:
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
    assert r"import sys # \x1b[31m\nfrom sandbox import Memcached" in lines[1]
    assert lines[1].endswith(r"\udcff'")


def test_hanging_server_gives_no_answer(cli: Cli) -> None:
    with Memcached() as server:
        os.kill(server.pid, signal.SIGSTOP)
        result = cli("list")
        assert re.search(rf" {server.pid} +no answer ", result.stdout)
        (entry,) = json.loads(cli("list", "--json").stdout)
        assert (entry["memory_used"], entry["items"]) == (None, None)


def test_all_servers_are_asked_at_once(cli: Cli) -> None:
    """Each answers once the other was asked, too."""
    both = Barrier(2)

    def answer(request: str) -> list[bytes]:
        both.wait(30)
        return [counters()]

    with ExitStack() as stack:
        for _ in range(2):
            server = stack.enter_context(Memcached())
            address = stack.enter_context(rogue(answer))
            record = Path(server.directory) / "record"
            text = record.read_bytes()
            record.write_bytes(text.replace(server.address.encode(), address.encode()))
        assert "no answer" not in cli("list").stdout


def test_server_that_never_ends_its_answer_gives_no_answer(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.registry.inventory.ANSWER_TIMEOUT", 0.2)
    with Memcached() as server, rogue(lambda _: slowly(repeat(b"STAT bytes 1\r\n"))) as address:
        record = Path(server.directory) / "record"
        record.write_bytes(record.read_bytes().replace(server.address.encode(), address.encode()))
        assert re.search(rf" {server.pid} +no answer ", cli("list").stdout)


def test_server_of_another_version_is_named(cli: Cli) -> None:
    with Memcached() as server:
        (Path(server.directory) / "record").write_text("memcached-sandbox 9\n")
        result = cli("list")
        assert result.stdout == ""
        assert result.stderr == (
            f"sandbox: {server.directory} has the record of another version of memcached-sandbox.\n"
        )
        assert result.returncode == 0


def test_servers_of_another_tmpdir_are_not_looked_for(run: Run, tmp_path: Path) -> None:
    """Who names a folder is not believed: the list says where it has looked."""
    with Memcached() as server:
        other = run("sandbox", "list", TMPDIR=str(tmp_path))
        assert server.address not in other.stdout
        assert (other.returncode, "Traceback" in other.stderr) == (0, False)
