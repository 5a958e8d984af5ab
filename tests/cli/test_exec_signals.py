"""Signals that `sandbox exec` receives, and those that its command handles."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.processes import (
    eventually,
    pid_in,
    read_line,
    wait_until_gone,
    without_coverage,
)
from ..helpers.recorder import RECORDER


def test_signal_sent_to_exec_reaches_the_command_once() -> None:
    names = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"]
    names += ["SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT", "SIGALRM", "SIGPROF", "SIGXCPU"]
    with subprocess.Popen(
        ["sandbox", "exec", "-q", "--", sys.executable, "-c", RECORDER, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=without_coverage(),
    ) as process:
        assert read_line(process) == "ready\n"
        for name in names:
            process.send_signal(getattr(signal, name))
            assert read_line(process) == f"{name}\n"
        assert process.communicate("")[0] == ""
    assert process.returncode == 0


def test_signals_ignored_by_the_parent_are_ignored_by_the_command(run: Run) -> None:
    """No other signal is ignored or blocked: nohup must work as without `sandbox exec`."""
    script = "trap '' HUP; exec {} grep -E 'Sig(Blk|Ign)' /proc/self/status"

    def signals(wrapper: str) -> list[int]:
        printed = run("sh", "-c", script.format(wrapper)).stdout
        # posix_spawn() of glibc leaves its own two signals, 32 and 33, ignored.
        return [int(mask, 16) & ~(0b11 << 31) for mask in re.findall(r"\t(\w+)", printed)]

    blocked, ignored = signals("")
    assert ignored & 1 << (signal.SIGHUP - 1)
    assert signals("sandbox exec -q --") == [blocked, ignored]


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_exec_ended_while_memcached_starts_leaves_nothing(name: str, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho $$ >pid; exec sleep 100\n")
    slow.chmod(0o755)
    with subprocess.Popen(
        ["sandbox", "exec", "--memcached", slow, "true"], cwd=tmp_path, stderr=subprocess.PIPE
    ) as process:
        pid = pid_in(tmp_path / "pid")
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.communicate()[1] == b""
    wait_until_gone(pid)
    eventually(lambda: list(Path(os.environ["TMPDIR"]).iterdir()) == [])


def test_killed_exec_takes_memcached_along(run_folder: Path) -> None:
    with subprocess.Popen(
        ["sandbox", "exec", "sh", "-c", "echo $MEMCACHED_SANDBOX_PID $$; exec sleep 100"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        pid, command = map(int, read_line(process).split())
        process.kill()
        process.wait()
        wait_until_gone(pid)
        eventually(lambda: list(run_folder.iterdir()) == [])
        os.kill(command, signal.SIGKILL)
