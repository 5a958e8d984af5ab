"""Follows the logs of the servers of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
        self.wanted = wanted
        self._makers = followers_of(wanted)
        self._followers: list[tuple[Memcached, FollowerByTest]] = []

    def follow(self, server: Memcached) -> None:
        """Follows the log of a server that has just started.

        :raises ServerError: it cannot be read.
        """
        for make in self._makers:
            follower = make()
            follower.address = server.address
            follow(server, follower)
            self._followers.append((server, follower))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads the logs while its body lasts, for a process whose tests are in others."""
        has_ended = threading.Event()

        def read() -> None:
            while not has_ended.wait(PAUSE):
                read_logs()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            has_ended.set()
            thread.join()

    def finish(self) -> list[FollowerByTest]:
        """Reads the rest of the logs, and returns the followers. The servers may have ended."""
        followed, self._followers = self._followers, []
        for server, follower in followed:
            unfollow(server, follower)
            follower.finish()
        return [follower for _, follower in followed]
