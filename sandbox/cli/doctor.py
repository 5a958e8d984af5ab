"""Finds what would stop a run on this machine, with remedies: ``sandbox doctor``."""

from __future__ import annotations

import json
import os
import platform
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from typing import NamedTuple

import click

from ..errors import BinaryError, SandboxError, printable
from ..inject import emptying, protocol
from ..registry import inventory
from ..registry.run_directory import problems, run_directory, where
from ..server import ANSWER_TIMEOUT
from ..server.binary import find_memcached, install_command
from ..server.memcached import Memcached
from ..server.others import other_memcacheds, other_people
from ..system.processes import shows_processes
from ..system.seccomp import reason_of_absence
from .output import PROBLEM

UNTOLD = "which does not tell its version"

# How it is known, before each flush, that memcached has executed what clients have sent.
SEEN_AT_REST = "exact: /proc shows when memcached's threads are at rest"
ASKED = (
    "exact with one thread, about 0.4 ms slower: memcached is asked whether it is at rest, since "
    "/proc does not show it, as to root without CAP_SYS_PTRACE"
)


class Finding(NamedTuple):
    """Holds the result of a check. With a remedy it is a problem, and fatal if it stops a run."""

    check: str
    found: str
    remedy: str = ""
    fatal: bool = False


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def command(as_json: bool) -> int:
    """Check this machine, and print a remedy for each problem.

    The exit status is 1 if a problem would stop a run.

    \b
        sandbox doctor
        sandbox doctor --json
    """
    findings = [finding for check in CHECKS for finding in check()]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        width = max(len(finding.check) for finding in findings)
        for check, found, remedy, fatal in findings:
            problem = "PROBLEM: " if fatal else ""
            click.echo(f"{check.ljust(width)}  {problem}{printable(found)}")
            if remedy:
                click.echo(f"{' ' * width}  -> {printable(remedy)}")
    return PROBLEM if any(finding.fatal for finding in findings) else 0


def _memcached() -> Iterator[Finding]:
    try:
        binary = find_memcached()
    except SandboxError as error:
        remedy = f"install it with '{install_command()}'"
        if os.environ.get("MEMCACHED_SANDBOX_BINARY"):
            remedy = "correct MEMCACHED_SANDBOX_BINARY"
        yield Finding("memcached", str(error), remedy, True)
        return
    version = _version_of(binary)
    remedy = ""
    if () < protocol.version_in(version) < protocol.OLDEST_THAT_LISTS:
        oldest = protocol.dotted(protocol.OLDEST_THAT_LISTS)
        remedy = f"use {oldest} or newer: the items that a failed test has left can be listed then"
    yield Finding("memcached", f"{binary}, {version}", remedy)
    server = Memcached()
    try:
        _start_and_stop(server)  # what is imported on first use is imported now
        start_ms, stop_ms = _start_and_stop(server)
    except SandboxError as error:
        # What tells no version is hardly memcached. Else the error itself says what to do.
        remedy = "name another memcached in MEMCACHED_SANDBOX_BINARY"
        if version != UNTOLD and not isinstance(error, BinaryError):
            remedy = ""
        yield Finding("start", str(error), remedy, True)
        return
    yield Finding("start", f"{start_ms:.1f} ms to start, {stop_ms:.1f} ms to stop")
    with server, closing(emptying.Emptier(ANSWER_TIMEOUT)) as emptier:
        shows_threads = emptier.shows_threads(server.address)
    yield Finding("flush", SEEN_AT_REST if shows_threads else ASKED)
    if "-u" in server.command and os.geteuid() == 0:
        user = server.command[server.command.index("-u") + 1]
        if pwd.getpwnam(user).pw_uid == 0:
            yield Finding(
                "user",
                f"memcached runs as {user}, which may not give its files to the user 'nobody'",
                "run as another user, or grant CAP_CHOWN and CAP_DAC_OVERRIDE",
            )


def _start_and_stop(server: Memcached) -> tuple[float, float]:
    begin = time.perf_counter()
    server.start()
    started = time.perf_counter()
    server.stop()
    return (started - begin) * 1000, (time.perf_counter() - started) * 1000


def _version_of(binary: str) -> str:
    try:
        output = subprocess.run(
            [binary, "-V"], capture_output=True, errors="replace", timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return UNTOLD
    return output.strip().removeprefix("memcached ") or UNTOLD


def _guard() -> Iterator[Finding]:
    if (absence := reason_of_absence()) is None:
        found = "the kernel guards all programs, by --strict, --redirect or --kernel-guard"
    else:
        found = f"only Python programs are guarded, as there is no kernel guard: {absence}"
    yield Finding("guard", found)


def _run_directory() -> Iterator[Finding]:
    try:
        directory = run_directory()
    except SandboxError as error:
        yield Finding("run directory", str(error), "point TMPDIR to a folder of yours", True)
        return
    passed_over = problems()
    because = f" ({'; '.join(passed_over)})" if passed_over else ""
    yield Finding("run directory", f"{directory}{because}")


def _stale() -> Iterator[Finding]:
    paths = inventory.stale()
    if paths:
        yield Finding(
            "stale",
            ", ".join(paths),
            "'sandbox stop --stale' removes it, or says what is in the way",
        )
    else:
        yield Finding("stale", f"nothing {where()}")


def _of_other_versions() -> Iterator[Finding]:
    for line in inventory.servers()[1]:
        yield Finding("unknown", line, "use the version of memcached-sandbox that started it")


def _other_processes() -> Iterator[Finding]:
    if not shows_processes():
        yield Finding("processes", "not to be seen: /proc is not mounted", "mount /proc")
        return
    others = other_memcacheds()
    if not others:
        yield Finding("other memcached", "none")
    for other in others:
        where = ", ".join(other.addresses) or "an unknown address"
        yield Finding("other memcached", f"pid {other.pid} of {other.user} at {where}: not touched")
    if people := other_people():
        yield Finding(
            "other people",
            f"processes of {', '.join(people)} run here, and a port is open to all of them: "
            "they can read the cache, and put a pickle there that runs their code as you",
            "use --unix, or MEMCACHED_SANDBOX_UNIX=1",
        )


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    for name in ("memcached-sandbox", "django", "pymemcache", "pylibmc"):
        try:
            yield Finding(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "not in this environment")


# What is stale comes before a server is started, which removes it.
CHECKS = [
    _run_directory,
    _stale,
    _of_other_versions,
    _memcached,
    _guard,
    _other_processes,
    _python,
]
