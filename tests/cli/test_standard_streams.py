"""Standard streams that are closed, full or left by their reader, and what they cannot encode."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox import Memcached

from ..conftest import Run
from ..helpers.cli import assert_one_line
from ..helpers.processes import eventually

CLOSED = "sandbox: stdout cannot be written: Bad file descriptor.\n"
FULL = "sandbox: stdout cannot be written: No space left on device.\n"
GONE = "sandbox: stdout cannot be written: Broken pipe.\n"

full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")


@pytest.fixture
def reader_less_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("redirection", "line"), [(">&-", CLOSED), pytest.param(">/dev/full", FULL, marks=full)]
)
@pytest.mark.parametrize("command", ["--help", "list --json", "doctor", "start"])
def test_stdout_that_cannot_be_written_is_one_line(
    run: Run, run_folder: Path, command: str, redirection: str, line: str
) -> None:
    assert_one_line(run("sh", "-c", f"sandbox {command} {redirection}"), 125, line)
    assert list(run_folder.iterdir()) == []


@pytest.mark.parametrize("command", ["--help", "list --json", "doctor", "start --help"])
def test_reader_that_has_gone_is_not_worth_a_line(
    reader_less_pipe: int, run_folder: Path, command: str
) -> None:
    result = subprocess.run(
        ["sandbox", *command.split()],
        check=False,
        stdout=reader_less_pipe,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert list(run_folder.iterdir()) == []


def test_stop_whose_reader_has_gone_says_so(run: Run, run_folder: Path) -> None:
    """The shell still has the variables of the sandbox, as nothing has unset them."""
    gone = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.execvp(*sys.argv[1:])"
    line = f'eval "$(sandbox start)"; python -c "{gone}" sandbox sandbox stop'
    result = run("sh", "-c", line.replace("sys.argv[1:]", "[sys.argv[1], sys.argv[2:]]"))
    assert result.returncode == 125
    stopped, said = result.stderr.splitlines(keepends=True)
    assert stopped.startswith("sandbox: stopped ")
    assert said == GONE
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_start_whose_reader_has_gone_leaves_nothing(
    reader_less_pipe: int, run_folder: Path
) -> None:
    result = subprocess.run(
        ["sandbox", "start"],
        check=False,
        stdout=reader_less_pipe,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (result.returncode, result.stderr) == (125, GONE)
    assert list(run_folder.iterdir()) == []


def test_start_that_is_killed_while_it_prints_leaves_nothing(run_folder: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b" " * 4096)
    os.set_blocking(writer, True)
    process = subprocess.Popen(["sandbox", "start"], stdout=writer)
    os.close(writer)
    eventually(lambda: list(run_folder.glob("*/run-*/socket")))
    process.kill()
    process.wait()
    os.close(reader)
    eventually(lambda: list(run_folder.iterdir()) == [])


@full
def test_stop_ends_the_sandbox_and_says_what_it_could_not_print(run: Run, run_folder: Path) -> None:
    result = run("sh", "-c", 'eval "$(sandbox start)"; sandbox stop >/dev/full')
    assert result.returncode == 125
    stopped, said = result.stderr.splitlines(keepends=True)
    assert stopped.startswith("sandbox: stopped ")
    assert said == FULL
    eventually(lambda: list(run_folder.iterdir()) == [])


@pytest.mark.whole_machine  # nothing else may be listed
@pytest.mark.parametrize("redirection", ["2>&-", pytest.param("2>/dev/full", marks=full)])
@pytest.mark.parametrize(
    ("command", "status"),
    [("list", 0), ("list --jsn", 2), ("stop no-such-id", 2), ("list >/dev/null", 0)],
)
def test_exit_status_is_right_if_stderr_cannot_be_written(
    run: Run, command: str, status: int, redirection: str
) -> None:
    result = run("sh", "-c", f"sandbox {command} {redirection}")
    assert (result.returncode, result.stdout, result.stderr) == (status, "", "")


@full
def test_exit_status_is_right_if_nothing_can_be_written(run: Run, run_folder: Path) -> None:
    for redirections in (">/dev/full 2>/dev/full", "<&- >&- 2>&-"):
        assert run("sh", "-c", f"sandbox start {redirections}").returncode == 125
        assert list(run_folder.iterdir()) == []


def test_stop_by_id_needs_no_stdout(run: Run) -> None:
    with Memcached() as server:
        result = run("sh", "-c", f"sandbox stop {os.path.basename(server.directory)} >&-")
        assert result.returncode == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="APFS refuses a name that is no UTF-8")
@pytest.mark.whole_machine
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tmpdir_that_the_terminal_cannot_show(run: Run, run_folder: Path, encoding: str) -> None:
    """What a shell evaluates has the bytes of the environment; a user reads escaped ones."""
    folder = run_folder / os.fsdecode(b"\xff\xc5\x82")
    folder.mkdir()
    variables = {"TMPDIR": str(folder), "PYTHONIOENCODING": encoding}
    lines = (
        'eval "$(sandbox start --unix)"; test -S "$MEMCACHED_SANDBOX_CONTROL" || echo missing;'
        "for each in list doctor; do sandbox $each >/dev/null 2>&1 || echo $each fails; done;"
        'eval "$(sandbox stop)"'
    )
    result = run("sh", "-c", lines, **variables)
    assert result.stdout == ""
    assert result.stderr.startswith("sandbox: stopped ")
    assert result.stderr.count("\n") == 1
    eventually(lambda: list(folder.iterdir()) == [])
