"""Lists the servers of this user's sandboxes that run on this machine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ..errors import ProtocolError, RecordError, RunError
from ..inject import protocol, sources
from .cleanup import stale_directories
from .directories import ControlDirectory, Record, ServerDirectory, directories
from .run_directory import run_directories

# The outages in which a server does not answer.
SILENT = ("down", "hung")

# Seconds to wait for an answer to "stats".
ANSWER_TIMEOUT = 1.0


class Answer(NamedTuple):
    """Tells what a server says of itself: its version, the bytes of its items, their number."""

    version: str
    memory_used: int
    items: int


class RunningServer(NamedTuple):
    """Describes a server of one of this user's sandboxes. It may belong to any process."""

    directory: ServerDirectory
    record: Record

    def is_of(self, control: str) -> bool:
        """Returns whether it belongs to the run with this control socket; "" is that of none."""
        return control != "" and self.record.control == os.path.basename(os.path.dirname(control))

    def ask(self) -> Answer | None:
        """Returns what it says of itself; None without an answer."""
        if self.record.address is None or self.record.outage in SILENT:
            return None
        try:
            with protocol.Connection.to(self.record.address, ANSWER_TIMEOUT) as connection:
                stats = connection.stats()
            used, items = (protocol.number(stats, name) for name in ("bytes", "curr_items"))
            return Answer(stats.get("version", ""), used, items)
        except (OSError, ProtocolError):
            return None

    def kill(self) -> str | None:
        """Kills it, and returns why it runs on, or None if it has ended.

        Its owner removes its files, and mends it first if it is in an outage.
        """
        record = self.record
        if record.outage:
            try:
                sources.SocketSource(self.control).mend([record.address or ""])
                record = self.directory.read_record()
            except (RunError, FileNotFoundError, RecordError):
                pass  # It has just ended, or its owner does not listen.
            if record.outage:
                return f"it is {record.outage}, in an outage that was asked for: end that first"
        return self.directory.kill(record.server)

    @property
    def control(self) -> str:
        """The path of the control socket of its run, which may not be there."""
        return os.path.join(self.directory.run.path, self.record.control, ControlDirectory.SOCKET)


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
    return sorted(found, key=lambda server: server.record.server.order), unknown


def ask(servers: Sequence[RunningServer]) -> list[Answer | None]:
    """Returns what each server says of itself. All are asked at once, as some may hang."""
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        return [*pool.map(RunningServer.ask, servers)]


def stale() -> list[str]:
    """Returns the paths of the stale directories."""
    return [directory.path for run in run_directories() for directory in stale_directories(run)]
