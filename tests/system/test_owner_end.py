"""The end of the owner, in whatever way: its server ends with it, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sandbox import Memcached

from ..conftest import Run
from ..helpers.owners import OWNER, Owner
from ..helpers.processes import eventually, script, wait_until_gone, without_coverage
from ..helpers.server_directories import server_directory


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_server_ends_with_its_killed_owner(blow: signal.Signals, run_folder: Path) -> None:
    with Owner(env=without_coverage()) as owner:
        owner.process.send_signal(blow)
        owner.process.wait()
        owner.assert_nothing_left(run_folder)


def test_server_ends_with_the_killed_process_group_of_its_owner(run_folder: Path) -> None:
    with Owner(start_new_session=True) as owner:
        os.killpg(owner.process.pid, signal.SIGKILL)
        owner.process.wait()
        owner.assert_nothing_left(run_folder)


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "os._exit(3)",
        "os.abort()",
        "raise RuntimeError",
        "os.execv('/bin/sleep', ['sleep', '100'])",
        "import atexit; atexit.register(sys.exit, 3)",
        "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
    ],
)
def test_server_ends_with_an_owner_that_ends_by_itself(end: str, run_folder: Path) -> None:
    with Owner(end, stderr=subprocess.DEVNULL) as owner:
        owner.assert_nothing_left(run_folder)


@pytest.mark.parametrize("stopped", ["server", "reaper"])
def test_owner_killed_while_its_server_or_reaper_is_stopped(run_folder: Path, stopped: str) -> None:
    """The kernel sends SIGHUP to a group that has no parent in its session any more."""
    with Owner() as owner:
        server, reaper = psutil.Process(owner.server_pid), owner.reaper
        process = {"server": server, "reaper": reaper}[stopped]
        process.suspend()
        eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        owner.process.kill()
        owner.process.wait()
        wait_until_gone(server.pid, reaper.pid)
        owner.assert_nothing_left(run_folder)


@pytest.mark.parametrize("spawned", [0, 1, 2])
@pytest.mark.parametrize("binary", ["memcached", "silent"])
def test_owner_killed_in_the_middle_of_a_start(
    python: Run, run_folder: Path, tmp_path: Path, spawned: int, binary: str
) -> None:
    """Before the reaper was started, when it was, and when the server was."""
    script(tmp_path / "silent", "#!/bin/sh\nexec sleep 100\n")
    result = python(
        "import os, sys\n"
        "from sandbox import Memcached\n"
        "spawn, pids = os.posix_spawn, []\n"
        "def kill_after(count):\n"
        "    if len(pids) == count:\n"
        "        print(*pids, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        "def posix_spawn(*arguments, **options):\n"
        f"    kill_after({spawned})\n"
        "    pids.append(spawn(*arguments, **options))\n"
        f"    kill_after({spawned})\n"
        "    return pids[-1]\n"
        "os.posix_spawn = posix_spawn\n"
        "Memcached().start()\n",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        MEMCACHED_SANDBOX_BINARY=binary,
    )
    assert result.returncode == -signal.SIGKILL
    wait_until_gone(*map(int, result.stdout.split()))
    if spawned == 0:
        with Memcached():  # there was no reaper yet: the next start removes the directory
            pass
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_owner_killed_at_a_random_moment_of_a_start(run_folder: Path) -> None:
    """The kernel ends the server, or the server is in the reaper's process group already."""
    chance = random.Random(1)
    for _ in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then="")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # A random moment: a start takes some milliseconds after the imports.
        time.sleep(chance.uniform(0.02, 0.08))
        process.kill()
        process.communicate()
    # A start would end a server that lives on, so it comes afterwards.
    directories = []
    for path in run_folder.glob("*/*"):
        with suppress(FileNotFoundError):  # Its reaper has removed it meanwhile.
            directories.append(server_directory(path))
    eventually(lambda: all(directory.has_exited(0) for directory in directories))
    with Memcached():
        pass
    eventually(lambda: list(run_folder.iterdir()) == [])


SETTINGS = """
import os
from sandbox.django import sandboxed, sandboxed_caches
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "main:11211",
    },
}
"""
IN_SETTINGS = "sandboxed(CACHES, start=True)"
IN_CONFTEST = """
from django.conf import settings
settings.configure(CACHES=CACHES)
box = sandboxed_caches()
box.__enter__()
"""


@pytest.mark.parametrize("way_in", [IN_SETTINGS, IN_CONFTEST])
def test_owner_killed_with_a_sandbox_in_settings_or_conftest(
    python: Run, run_folder: Path, way_in: str
) -> None:
    killed = "print(len(os.listdir(os.environ['TMPDIR'])), flush=True)\nos.kill(os.getpid(), 9)"
    result = python(f"{SETTINGS}\n{way_in}\n{killed}")
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, "1\n"), result.stderr
    eventually(lambda: list(run_folder.iterdir()) == [])
