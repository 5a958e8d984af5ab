"""What runs on this machine: the servers of this user's sandboxes, and other memcacheds."""

from __future__ import annotations

import getopt
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from . import sweep
from .inject import wire
from .lifeline import NAME as LIFELINE
from .options import LONG_OPTIONS, SHORT_OPTIONS
from .records import Record, RecordError
from .runtime import folders, problem_of, run_directory_in, server_directories

# A server that does not hang answers in less than a millisecond, in seconds.
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
            with wire.Connection(self.record.address, ANSWER_TIMEOUT) as connection:
                stats = connection.stats()
            return {name: int(stats[name]) for name in ("bytes", "curr_items")}
        except (OSError, LookupError, ValueError, wire.ProtocolError):
            return None

    def kill(self) -> bool:
        """Kill it and return whether it has ended. Its owner removes its files."""
        self.record.server.kill()
        return sweep.has_ended(self.path, sweep.PATIENCE)


class OtherMemcached(NamedTuple):
    """A memcached that is no server of ours. Nothing here has connected to it."""

    pid: int
    user: str
    addresses: list[str]


def run_directories() -> list[str]:
    """Return the run directories of this user that are there and may be trusted.

    Those that this environment leads to, and those that a lifeline has in its command line.
    """
    found = [run_directory_in(folder) for folder in folders()]
    for process in psutil.process_iter(["cmdline", "uids"]):
        match process.info:
            case {"cmdline": [_, "-c", _, name, path], "uids": uids} if (
                name == LIFELINE and uids.effective == os.geteuid()
            ):
                found.append(os.path.dirname(path))
    return [
        path for path in dict.fromkeys(found) if os.path.isdir(path) and problem_of(path) is None
    ]


def servers() -> tuple[list[Server], list[str]]:
    """Return the servers of this user that somebody tends, the oldest first.

    And of which nobody can tell more than where they have their files: in a line each, why.
    """
    found, unknown = [], []
    for path in filter(sweep.is_tended, _paths()):
        try:
            found.append(Server(path, Record.read(path)))
        except FileNotFoundError:
            pass  # It is being launched, or has just been removed.
        except RecordError as error:
            unknown.append(f"{path} {error}")
    return sorted(found, key=lambda server: server.record.server.created), unknown


def stale() -> list[str]:
    """Return the directories of servers that nobody tends."""
    return [path for path in _paths() if not sweep.is_tended(path)]


def other_memcacheds() -> list[OtherMemcached]:
    """Return the memcacheds on this machine that are not in `servers`."""
    ours = {server.record.server.pid for server in servers()[0]}
    return [
        OtherMemcached(process.pid, process.info["username"] or "?", _addresses(process))
        for process in psutil.process_iter(["name", "username", "cmdline"])
        if process.info["name"] == "memcached" and process.pid not in ours
    ]


def _paths() -> Iterator[str]:
    for directory in run_directories():
        yield from server_directories(directory)


def _addresses(process: psutil.Process) -> list[str]:
    """Return where a memcached listens: as the kernel says, or else as its command line does."""
    try:
        connections = process.net_connections(kind="all")
    except psutil.Error:
        connections = []  # Another user's: only root may look at its sockets.
    listening = [
        _address(*connection.laddr)
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]
    # The path of a Unix socket is that of each connection to it, too.
    paths = dict.fromkeys(
        f"unix:{connection.laddr}"
        for connection in connections
        if connection.family == socket.AF_UNIX and connection.laddr
    )
    return [*listening, *paths] or _addresses_asked_for(process.info["cmdline"] or [])


def _addresses_asked_for(command: list[str]) -> list[str]:
    if not command:
        return []  # It is being started, has just ended, or this user may not read it.
    try:
        options = dict(getopt.gnu_getopt(command[1:], SHORT_OPTIONS, LONG_OPTIONS)[0])
    except getopt.GetoptError:
        return []
    if path := options.get("-s", options.get("--unix-socket")):
        return [f"unix:{path}"]
    port = options.get("-p", options.get("--port", "11211"))
    hosts = options.get("-l", options.get("--listen", "0.0.0.0"))
    return [_address(host, port) for host in hosts.split(",")]


def _address(host: str, port: int | str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
