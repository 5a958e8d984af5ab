"""Processes that own a server, and reapers: the tests end them in one way or another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from sandbox import Memcached

from .processes import eventually, read_line, wait_until_gone

if TYPE_CHECKING:
    from typing_extensions import Self

# Starts a server, prints its pid and its directory, and does what `then` says.
OWNER = """
import json, os, sys, threading, time
from sandbox import Memcached
server = Memcached()
server.start()
print(json.dumps([server.pid, server.directory]), flush=True)
{then}
"""


class Owner:
    """A process that owns a server. Without `then` it lives until its standard input ends."""

    def __init__(
        self,
        then: str = "sys.stdin.read()",
        *,
        env: Mapping[str, str] | None = None,
        stderr: int | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then=then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=env,
            start_new_session=start_new_session,
        )
        self.server_pid, directory = json.loads(read_line(self.process))
        self.directory = Path(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read(self) -> str:
        """Return what the owner prints, from now on until it ends."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    @property
    def reaper(self) -> psutil.Process:
        return _other_child(self.process.pid, self.server_pid)

    def kill_reaper(self) -> None:
        """Kill the reaper, and wait until it holds no lock any more."""
        reaper = self.reaper
        reaper.kill()
        wait_until_gone(reaper.pid)

    def assert_nothing_left(self, run_folder: Path) -> None:
        wait_until_gone(self.server_pid)
        eventually(lambda: list(run_folder.iterdir()) == [])


def reaper_of(server: Memcached) -> psutil.Process:
    """Return the reaper of the only server that this process has started."""
    return _other_child(None, server.pid)


def _other_child(owner_pid: int | None, server_pid: int) -> psutil.Process:
    children = psutil.Process(owner_pid).children()
    (reaper,) = (child for child in children if child.pid != server_pid)
    return reaper
