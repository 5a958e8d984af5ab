"""Lists the servers of this user's sandboxes that run on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from ..errors import ProtocolError, RecordError
from ..inject import protocol
from ..system.reaper import NAME as REAPER
from . import cleanup
from .record import Record
from .run_directory import folders, problem_of, run_directory_in, server_directories

# Seconds to wait for an answer to "stats".
ANSWER_TIMEOUT = 1.0


class Server(NamedTuple):
    """A server of one of this user's sandboxes, by its directory. It may belong to any process."""

    path: str
    record: Record

    @property
    def id(self) -> str:
        return os.path.basename(self.path)

    def stats(self) -> dict[str, int] | None:
        """Return how many bytes its items take and how many they are; None without an answer."""
        if self.record.address is None:
            return None
        try:
            with protocol.Connection(self.record.address, ANSWER_TIMEOUT) as connection:
                stats = connection.stats()
            return {name: int(stats[name]) for name in ("bytes", "curr_items")}
        except (OSError, LookupError, ValueError, ProtocolError):
            return None

    def kill(self) -> bool:
        """Kill it and return whether it has ended. Its owner removes its files."""
        self.record.server.kill()
        return cleanup.has_ended(self.path, cleanup.PATIENCE)


def run_directories() -> list[str]:
    """Return the run directories of this user that are there and may be trusted.

    Those that this environment leads to, and those that a reaper has in its command line.
    """
    found = [run_directory_in(folder) for folder in folders()]
    for process in psutil.process_iter(["cmdline", "uids"]):
        match process.info:
            case {"cmdline": [_, "-c", _, name, path], "uids": uids} if (
                name == REAPER and uids.effective == os.geteuid()
            ):
                found.append(os.path.dirname(path))
    return [
        path for path in dict.fromkeys(found) if os.path.isdir(path) and problem_of(path) is None
    ]


def servers() -> tuple[list[Server], list[str]]:
    """Return the servers of this user that are not stale, the oldest first.

    Also returns one line for each directory whose record cannot be read.
    """
    found, unknown = [], []
    for path in filter(cleanup.is_tended, _paths()):
        try:
            found.append(Server(path, Record.read(path)))
        except FileNotFoundError:
            pass  # It is being launched, or has just been removed.
        except RecordError as error:
            unknown.append(f"{path} {error}")
    return sorted(found, key=lambda server: server.record.server.created), unknown


def stale() -> list[str]:
    """Return the directories of stale servers."""
    return [path for path in _paths() if not cleanup.is_tended(path)]


def _paths() -> Iterator[str]:
    for directory in run_directories():
        yield from server_directories(directory)
