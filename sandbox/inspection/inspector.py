"""Follows the logs of the servers of a run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..server.trace import follow, read_logs, unfollow
from .report import followers_of

if TYPE_CHECKING:
    from ..server.memcached import Memcached
    from .follower import FollowerByTest
    from .wanted import Wanted

# Seconds between two looks at the logs. What is not read yet takes room on the disk.
PAUSE = 0.1


class Inspector:
    """Looks at what tests do to servers, by their logs.

    :param wanted: the reports of the run.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._makers = followers_of(wanted)
        self._followers: list[tuple[Memcached, FollowerByTest]] = []
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, server: Memcached) -> None:
        """Follows the log of a server that has just started.

        :raises ServerError: it cannot be read.
        """
        for make in self._makers:
            follower = make()
            follow(server, follower)
            self._followers.append((server, follower))

    def read_in_thread(self) -> None:
        """Reads the logs from now on, in a process whose tests are in others."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._has_ended.wait(PAUSE):
            read_logs()

    def finish(self) -> list[FollowerByTest]:
        """Reads the rest of the logs, and returns the followers. The servers may have ended."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join()
        followed, self._followers = self._followers, []
        for server, follower in followed:
            unfollow(server, follower)
            follower.finish()
        return [follower for _, follower in followed]
