"""`sandbox exec` at a terminal: Ctrl-C, Ctrl-Z, job control and interactive programs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pexpect
import pytest

from ..helpers.processes import Terminal, printed, spawn
from ..helpers.recorder import RECORDER

PROMPT = "prompt> "

# Runs without coverage: Ctrl-C interrupts the command, but not `sandbox exec`.
PYTHON = ["env", "-u", "COVERAGE_PROCESS_CONFIG", sys.executable]


@pytest.fixture
def bash() -> Iterator[Terminal]:
    """An interactive bash, with job control."""
    with spawn("bash", "--norc", "-i", covered=True, PS1=PROMPT) as bash:
        bash.expect_exact(PROMPT)
        yield bash
        bash.sendline("exit")


def status(bash: Terminal) -> int:
    """Wait for the prompt, and return the exit status of the last command."""
    bash.expect_exact(PROMPT)
    bash.sendline("echo status=$?")
    bash.expect(r"status=(\d+)")
    assert isinstance(bash.match, re.Match)
    return int(bash.match[1])


def test_ctrl_c_ends_the_command(bash: Terminal) -> None:
    bash.sendline("sandbox exec -- sh -c 'echo rea''dy; exec sleep 100'")
    bash.expect_exact("ready")
    bash.sendcontrol("c")
    bash.expect_exact("sandbox: nothing used")
    assert status(bash) == 130


def test_ctrl_c_ends_a_script_as_without_exec(bash: Terminal) -> None:
    bash.sendline("""bash -c 'sandbox exec sh -c "echo rea""dy; exec sleep 100"; echo went on'""")
    bash.expect_exact("ready")
    bash.sendcontrol("c")
    bash.expect_exact("sandbox: nothing used")
    assert status(bash) == 130
    assert "went on" not in printed(bash)


def test_ctrl_c_is_handled_by_the_command(bash: Terminal) -> None:
    bash.sendline(f"sandbox exec -- {' '.join(PYTHON)} -i -c ''")
    bash.expect_exact(">>> ")
    bash.sendcontrol("c")
    bash.expect_exact("KeyboardInterrupt")
    bash.expect_exact(">>> ")
    bash.sendline("6 * 7")
    bash.expect_exact("42")
    bash.sendline("exit(5)")
    assert status(bash) == 5


@pytest.mark.parametrize("key", ["c", "\\"])
def test_typed_signal_reaches_the_command_once(key: str) -> None:
    recorder = [*PYTHON, "-c", RECORDER, "SIGINT", "SIGQUIT"]
    with spawn("sandbox", "exec", "-q", "--", *recorder, covered=True) as terminal:
        terminal.expect_exact("ready")
        terminal.sendcontrol(key)
        terminal.expect(r"SIG\w+")
        terminal.sendcontrol("d")
        terminal.expect_exact(pexpect.EOF)
        assert "SIG" not in printed(terminal)
    assert terminal.exitstatus == 0


def test_ctrl_z_stops_the_command_and_fg_continues_it(bash: Terminal) -> None:
    bash.sendline(f"sandbox exec -- {' '.join(PYTHON)} -i -c ''")
    bash.expect_exact(">>> ")
    bash.sendcontrol("z")
    bash.expect_exact("Stopped")
    bash.expect_exact(PROMPT)
    bash.sendline("fg")
    bash.sendline("6 * 7")
    bash.expect_exact("42")
    bash.sendline("exit(5)")
    assert status(bash) == 5


# Runs one job in the foreground, as a shell does, and continues it whenever it stops.
JOB_CONTROL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
while os.WIFSTOPPED(status := os.waitpid(job, os.WUNTRACED)[1]):
    os.{kill}(job, signal.SIGCONT)
print("status", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("kill", ["killpg", "kill"])
def test_stopped_command_is_continued_once(kill: str) -> None:
    """SIGCONT goes to the whole job, as a shell sends it, or to `sandbox exec` alone."""
    recorder = [*PYTHON, "-c", RECORDER, "SIGCONT"]
    job_control = [sys.executable, "-c", JOB_CONTROL.replace("{kill}", kill)]
    with spawn(*job_control, "sandbox", "exec", "--", *recorder, covered=True) as terminal:
        terminal.expect_exact("ready")
        terminal.sendcontrol("z")
        terminal.expect_exact("SIGCONT")
        terminal.sendcontrol("d")
        terminal.expect_exact("sandbox: ")
        assert "SIGCONT" not in printed(terminal)
        terminal.expect_exact("status 0")


def test_background_job_is_ended_by_the_shell(bash: Terminal) -> None:
    bash.sendline("sandbox exec -- sh -c 'echo rea''dy; exec sleep 100' &")
    bash.expect_exact("ready")
    bash.sendline("kill %1; wait %1")
    assert status(bash) == 143


def test_shell_as_the_command_controls_its_jobs(bash: Terminal) -> None:
    bash.sendline("PS1='inner> ' sandbox exec -- bash --norc -i")
    bash.expect_exact("inner> ")
    bash.sendline("sh -c 'echo rea''dy; exec sleep 100'")
    bash.expect_exact("ready")
    bash.sendcontrol("c")
    bash.expect_exact("inner> ")
    bash.sendline("exit 7")
    bash.expect_exact("sandbox: nothing used")
    assert status(bash) == 7
