"""Memcached processes that this package did not start: the tests start them by hand."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pymemcache import Client

from sandbox.server.binary import find_memcached

from .processes import eventually, script

if TYPE_CHECKING:
    from typing_extensions import Self


# A script that writes to a port without a pause: the server always has more to read.
PUMP = """
import socket, sys
block = b"set pumped 0 0 1 noreply\\r\\n1\\r\\n" * 100_000
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
    client.sendall(block)
    print("!", end="", flush=True)
    while True:
        client.sendall(block)
"""


def starting_once(folder: Path) -> str:
    """Return the path of a memcached that starts a single time."""
    text = f'#!/bin/sh\nmkdir {folder}/started || exit 3\nexec memcached "$@"\n'
    return str(script(folder / "once", text))


class PlainMemcached:
    """A memcached on a port of its own, or on the Unix socket that `arguments` name."""

    def __init__(self, *arguments: str) -> None:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
            folder.chmod(0o777)  # as root, memcached may be another user here
            port_file = folder / "port"
            user = psutil.Process().username()
            where = arguments or ("-p", "-1")
            self.process = subprocess.Popen(
                [*find_memcached(), "-u", user, "-l", "127.0.0.1", *where],
                env={**os.environ, "MEMCACHED_PORT_FILENAME": str(port_file)},
            )
            stack.callback(self.process.wait)
            stack.callback(self.process.kill)
            self.pid = self.process.pid
            if not arguments:
                self.host = "127.0.0.1"
                eventually(lambda: port_file.exists() or self.process.poll() is not None)
                self.port = int(port_file.read_text().split()[2])
                self.address = f"{self.host}:{self.port}"
            self._cleanup = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()


class MainMemcached(PlainMemcached):
    """The memcached of a developer: nothing of this package may even connect to it."""

    COUNTERS = (
        *(b"pid", b"cmd_get", b"cmd_set", b"cmd_flush", b"cmd_touch", b"cmd_meta"),
        *(b"total_connections", b"curr_connections"),
    )

    def __init__(self) -> None:
        super().__init__()
        # One connection for all questions: each further one would count as a user's.
        self.client = Client((self.host, self.port), no_delay=True)
        self.client.set("canary", "sings", noreply=False)
        self._before = self._counters()

    def __exit__(self, *_: object) -> None:
        self.client.close()
        super().__exit__()

    def _counters(self) -> dict[bytes, int]:
        stats = self.client.stats()
        return {name: stats[name] for name in self.COUNTERS}

    def assert_untouched(self) -> None:
        assert self.process.poll() is None
        assert self._counters() == self._before
        assert self.client.get("canary") == b"sings"
        self._before = self._counters()
