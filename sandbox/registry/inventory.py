"""Lists the servers of this user's sandboxes that run on this machine."""

from __future__ import annotations

import itertools
import os
from typing import NamedTuple

import psutil

from ..errors import ProtocolError, RecordError
from ..inject import protocol
from ..system.reaper import NAME as REAPER
from .cleanup import PATIENCE, stale_directories
from .directories import Record, ServerDirectory, directories
from .run_directory import folders, problem_of, run_directory_in

# Seconds to wait for an answer to "stats".
ANSWER_TIMEOUT = 1.0


class RunningServer(NamedTuple):
    """Describes a server of one of this user's sandboxes. It may belong to any process."""

    directory: ServerDirectory
    record: Record

    def stats(self) -> dict[str, int] | None:
        """Returns how many bytes its items take and how many they are; None without an answer."""
        if self.record.address is None:
            return None
        try:
            with protocol.Connection.to(self.record.address, ANSWER_TIMEOUT) as connection:
                stats = connection.stats()
            return {name: protocol.number(stats, name) for name in ("bytes", "curr_items")}
        except (OSError, ValueError, ProtocolError):  # A ValueError if the record has no address.
            return None

    def kill(self) -> bool:
        """Kills it and returns whether it has ended. Its owner removes its files."""
        self.record.server.kill()
        return self.directory.has_exited(PATIENCE)


def run_directories() -> list[str]:
    """Returns the run directories of this user that are there and may be trusted.

    Those that this environment leads to, and those that a reaper has in its command line.
    """
    found = [run_directory_in(folder) for folder in folders()]
    for process in psutil.process_iter(["cmdline", "uids"]):
        match process.info:
            case {"cmdline": [_, "-c", _, name, path, *_], "uids": uids} if (
                name == REAPER and uids.effective == os.geteuid()
            ):
                found.append(os.path.dirname(path))
    return [
        path for path in dict.fromkeys(found) if os.path.isdir(path) and problem_of(path) is None
    ]


def servers() -> tuple[list[RunningServer], list[str]]:
    """Returns the servers of this user that are not stale, the oldest first.

    Also returns one line for each directory whose record cannot be read.
    """
    found, unknown = [], []
    for directory in itertools.chain.from_iterable(map(directories, run_directories())):
        if isinstance(directory, ServerDirectory) and directory.is_alive():
            try:
                found.append(RunningServer(directory, directory.read_record()))
            except FileNotFoundError:
                pass  # It is being started, or has just been removed.
            except RecordError as error:
                unknown.append(f"{directory.path} {error}")
    return sorted(found, key=lambda server: server.record.server.created), unknown


def stale() -> list[str]:
    """Returns the paths of the stale directories."""
    return [directory.path for path in run_directories() for directory in stale_directories(path)]
