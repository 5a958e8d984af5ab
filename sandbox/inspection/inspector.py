"""Follows the logs of the servers of a run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..server.trace import follow, read_logs, unfollow
from .leaks import Replay

if TYPE_CHECKING:
    from ..server.memcached import Memcached

# Seconds between two looks at the logs. What is not read yet takes room on the disk.
PAUSE = 0.1


class Inspector:
    """Looks at what tests do to servers, by their logs."""

    def __init__(self) -> None:
        self._replays: list[tuple[Memcached, Replay]] = []
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, server: Memcached) -> None:
        """Follows the log of a server that has just started.

        :raises ServerError: it cannot be read.
        """
        replay = Replay()
        follow(server, replay)
        self._replays.append((server, replay))

    def read_in_thread(self) -> None:
        """Reads the logs from now on, in a process whose tests are in others."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._has_ended.wait(PAUSE):
            read_logs()

    def finish(self) -> list[Replay]:
        """Reads the rest of the logs, and returns what was found. The servers may have ended."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join()
        replays, self._replays = self._replays, []
        for server, replay in replays:
            unfollow(server, replay)
        return [replay for _, replay in replays]
