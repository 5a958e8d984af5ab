"""The reaper: stop() succeeds without it, and no program escapes from its process group."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from sandbox import Memcached, StartError

from ..conftest import Run
from ..helpers.owners import reaper_of
from ..helpers.processes import pid_in, script


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_stop_succeeds_after_the_reaper_was_stopped_or_killed(blow: signal.Signals) -> None:
    with Memcached() as server:
        reaper, pid = reaper_of(server), server.pid
        reaper.send_signal(blow)
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(reaper.pid)


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_stop_succeeds_after_the_server_was_stopped_or_killed(blow: signal.Signals) -> None:
    with Memcached() as server:
        reaper, pid = reaper_of(server), server.pid
        os.kill(pid, blow)
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(reaper.pid)


def test_stop_after_the_death_of_the_reaper_raises_no_sigpipe(python: Run) -> None:
    result = python(
        "import os, signal, psutil\n"
        "from sandbox import Memcached\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "with Memcached() as server:\n"
        "    for child in psutil.Process().children():\n"
        "        if child.pid != server.pid: child.kill(); child.wait()\n"
        "print(psutil.Process().children())\n"
    )
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


needs_setsid = pytest.mark.skipif(shutil.which("setsid") is None, reason="there is no setsid here")


@needs_setsid
def test_server_that_leaves_the_process_group_is_refused(tmp_path: Path) -> None:
    """Such a server could not be ended with its owner."""
    leaver = script(
        tmp_path / "leaver",
        f'#!/bin/sh\necho $$ >{tmp_path}/pid\nexec setsid memcached "$@"\n',
    )
    with pytest.raises(StartError, match="has left its process group, and could not be ended"):
        Memcached(binary=leaver).start()
    assert not psutil.pid_exists(pid_in(tmp_path / "pid"))


@needs_setsid
def test_program_that_closes_its_fifo_and_leaves_the_group_is_ended(tmp_path: Path) -> None:
    leaver = script(
        tmp_path / "leaver",
        f"#!/bin/sh\nexec 3>&-\necho $$ >{tmp_path}/pid\nexec setsid sleep 100\n",
    )
    server = Memcached(binary=leaver)
    server.launch()
    pid = pid_in(tmp_path / "pid")
    server.stop()
    assert not psutil.pid_exists(pid)
