"""`sandbox exec` in a terminal: Ctrl-C, Ctrl-Z, job control and programs that own the screen."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pexpect
import pytest

from ..helpers.processes import spawn
from .test_exec import RECORDER

PROMPT = "prompt> "

# `sandbox exec` takes signals one by one and so may be covered; what it runs is interrupted.
PYTHON = ["env", "-u", "COVERAGE_PROCESS_CONFIG", sys.executable]


@pytest.fixture
def shell() -> Iterator[pexpect.spawn]:
    """An interactive bash, with job control."""
    with spawn("bash", "--norc", "-i", covered=True, PS1=PROMPT) as shell:
        shell.expect_exact(PROMPT)
        yield shell
        shell.sendline("exit")


def status(shell: pexpect.spawn) -> int:
    shell.expect_exact(PROMPT)
    shell.sendline("echo status=$?")
    shell.expect(r"status=(\d+)")
    return int(shell.match[1])


def test_ctrl_c_ends_the_command(shell: pexpect.spawn) -> None:
    shell.sendline("sandbox exec -- sh -c 'echo rea''dy; exec sleep 100'")
    shell.expect_exact("ready")
    shell.sendcontrol("c")
    shell.expect_exact("sandbox: 0 gets")
    assert status(shell) == 130


def test_ctrl_c_ends_a_script_as_it_would_without_us(shell: pexpect.spawn) -> None:
    shell.sendline("""bash -c 'sandbox exec sh -c "echo rea""dy; exec sleep 100"; echo went on'""")
    shell.expect_exact("ready")
    shell.sendcontrol("c")
    shell.expect_exact("sandbox: 0 gets")
    assert status(shell) == 130
    assert "went on" not in shell.before


def test_ctrl_c_and_a_command_that_handles_it(shell: pexpect.spawn) -> None:
    shell.sendline(f"sandbox exec -- {' '.join(PYTHON)} -i -c ''")
    shell.expect_exact(">>> ")
    shell.sendcontrol("c")
    shell.expect_exact("KeyboardInterrupt")
    shell.expect_exact(">>> ")
    shell.sendline("6 * 7")
    shell.expect_exact("42")
    shell.sendline("exit(5)")
    assert status(shell) == 5


@pytest.mark.parametrize("key", ["c", "\\"])
def test_what_is_typed_reaches_the_command_once(key: str) -> None:
    recorder = [*PYTHON, "-c", RECORDER, "SIGINT", "SIGQUIT"]
    with spawn("sandbox", "exec", "-q", "--", *recorder, covered=True) as terminal:
        terminal.expect_exact("ready")
        terminal.sendcontrol(key)
        terminal.expect(r"SIG\w+")
        terminal.sendcontrol("d")
        terminal.expect_exact(pexpect.EOF)
        assert "SIG" not in terminal.before
    assert terminal.exitstatus == 0


def test_ctrl_z_and_back(shell: pexpect.spawn) -> None:
    shell.sendline(f"sandbox exec -- {' '.join(PYTHON)} -i -c ''")
    shell.expect_exact(">>> ")
    shell.sendcontrol("z")
    shell.expect_exact("Stopped")
    shell.expect_exact(PROMPT)
    shell.sendline("fg")
    shell.sendline("6 * 7")
    shell.expect_exact("42")
    shell.sendline("exit(5)")
    assert status(shell) == 5


# A shell that runs one job in the foreground, and continues it at once when it stops.
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
def test_continued_once(kill: str) -> None:
    """Be it with the whole job, as a shell does it, or by someone who continues us alone."""
    recorder = [*PYTHON, "-c", RECORDER, "SIGCONT"]
    job_control = [sys.executable, "-c", JOB_CONTROL.replace("{kill}", kill)]
    with spawn(*job_control, "sandbox", "exec", "--", *recorder, covered=True) as terminal:
        terminal.expect_exact("ready")
        terminal.sendcontrol("z")
        terminal.expect_exact("SIGCONT")
        terminal.sendcontrol("d")
        terminal.expect_exact("sandbox: ")
        assert "SIGCONT" not in terminal.before
        terminal.expect_exact("status 0")


def test_background_job_ended_by_the_shell(shell: pexpect.spawn) -> None:
    shell.sendline("sandbox exec -- sh -c 'echo rea''dy; exec sleep 100' &")
    shell.expect_exact("ready")
    shell.sendline("kill %1; wait %1")
    assert status(shell) == 143


def test_a_shell_with_jobs_of_its_own(shell: pexpect.spawn) -> None:
    shell.sendline("PS1='inner> ' sandbox exec -- bash --norc -i")
    shell.expect_exact("inner> ")
    shell.sendline("sh -c 'echo rea''dy; exec sleep 100'")
    shell.expect_exact("ready")
    shell.sendcontrol("c")
    shell.expect_exact("inner> ")
    shell.sendline("exit 7")
    shell.expect_exact("sandbox: 0 gets")
    assert status(shell) == 7
