"""Looks at what else runs on this machine: other memcacheds, and other people's processes."""

from __future__ import annotations

import getopt
import os
import socket
import sys
from typing import NamedTuple

import psutil

from ..inject import address
from ..registry import inventory
from ..system.reaper import NAME as REAPER
from .installed import LIBRARY_PATH
from .options import ANY_PORT, LONG_OPTIONS, SHORT_OPTIONS

# The lowest user ID of people: UID_MIN in login.defs(5), and 501 on macOS. Above it are, too, those
# of the user nobody and of services, which systemd makes up: DynamicUser= in systemd.exec(5).
LOWEST_OF_PEOPLE = 1000 if sys.platform == "linux" else 501
OF_SERVICES = range(61184, 65535)


class OtherMemcached(NamedTuple):
    """Describes a memcached that this package did not start. It is never connected to."""

    pid: int
    user: str
    addresses: list[address.Address]


def other_memcacheds() -> list[OtherMemcached]:
    """Returns the memcacheds on this machine that are no servers of a sandbox, of any user."""
    recorded = [server.record.server for server in inventory.servers()[0]]
    ours = {server.pid for server in recorded if server.is_of_this_system}
    return [
        OtherMemcached(process.pid, process.info["username"] or "?", _addresses(process))
        for process in psutil.process_iter(["name", "username", "cmdline"])
        if process.info["name"] == "memcached"
        and process.pid not in ours
        and not _has_reaper(process.pid)
    ]


def other_people() -> list[str]:
    """Returns the names of other people whose processes run on this machine."""
    return sorted(
        {
            process.info["username"] or str(process.info["uids"].real)
            for process in psutil.process_iter(["uids", "username"])
            if process.info["uids"] and _is_other_person(process.info["uids"].real)
        }
    )


def _is_other_person(uid: int) -> bool:
    return uid >= LOWEST_OF_PEOPLE and uid not in OF_SERVICES and uid != os.getuid()


def _has_reaper(pid: int) -> bool:
    """Returns whether a reaper leads the process group: so it is with each server of a sandbox."""
    try:
        return REAPER in psutil.Process(os.getpgid(pid)).cmdline()
    except (psutil.Error, ProcessLookupError):
        return False


def _addresses(process: psutil.Process) -> list[address.Address]:
    """Returns where a memcached listens: as the kernel says, or else as its command line does."""
    connections = []
    for kind in ("inet", "unix"):
        try:
            connections += process.net_connections(kind=kind)
        except psutil.Error:
            pass  # Another user's: only root may look at its sockets.
        except (RuntimeError, ValueError):
            pass  # psutil cannot read the list: any user may put a line end into a socket's path.
    listening = [
        address.Address.at(*connection.laddr)
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]
    # The path of a Unix socket is that of each connection to it, too.
    paths = dict.fromkeys(
        address.Address.at_path(str(connection.laddr))
        for connection in connections
        if connection.family == socket.AF_UNIX and connection.laddr
    )
    return [*listening, *paths] or _addresses_asked_for(process.info["cmdline"] or [])


def _addresses_asked_for(command: list[str]) -> list[address.Address]:
    if not command:
        return []  # It is being started, has just ended, or this user may not read it.
    if command[1:2] == [LIBRARY_PATH]:
        command = command[3:]
    try:
        options = dict(getopt.gnu_getopt(command[1:], SHORT_OPTIONS, LONG_OPTIONS)[0])
    except getopt.GetoptError:
        return []
    if path := options.get("-s", options.get("--unix-socket")):
        return [address.Address.at_path(path)]
    port = options.get("-p", options.get("--port", "11211"))
    if port == ANY_PORT:
        return []
    hosts = options.get("-l", options.get("--listen", "0.0.0.0"))
    return [address.Address.at(host, port) for host in hosts.split(",")]
