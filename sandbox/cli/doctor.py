"""Finds what would stop a run on this machine, with remedies: ``sandbox doctor``."""

from __future__ import annotations

import json
import os
import platform
import pwd
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from importlib import metadata
from typing import NamedTuple

import click

from ..errors import BinaryError, ProtocolError, SandboxError, printable
from ..inject import emptying, protocol
from ..inspection.names import counted
from ..registry import inventory
from ..registry.run_directory import problems, run_directory, where
from ..server.binary import find_memcached
from ..server.installed import installed, remedy
from ..server.memcached import Memcached
from ..server.others import other_memcacheds, other_people
from ..server.version import UNKNOWN, ask_version
from ..system.processes import shows_processes
from ..system.seccomp import reason_of_absence
from .output import PROBLEM

# Seconds for a memcached to be ready, and then for each answer: whatever hangs, two are enough.
START_TIMEOUT = 1.5
ANSWER_TIMEOUT = 0.5

# Milliseconds from which on a start is not measured again.
SLOW = 300

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
        click.echo(_verdict(findings))
    return PROBLEM if any(finding.fatal for finding in findings) else 0


def _verdict(findings: Sequence[Finding]) -> str:
    problems = sum(finding.fatal for finding in findings)
    if problems:
        return f"no run works here: {counted(problems, 'problem')} to solve"
    if remarks := sum(bool(finding.remedy) for finding in findings):
        return f"a run works here; {counted(remarks, 'remark')} with an arrow"
    return "all is well"


def _memcached() -> Iterator[Finding]:
    try:
        command = find_memcached()
    except BinaryError as error:
        yield Finding("memcached", error.problem, error.remedy, True)
        return
    with ThreadPoolExecutor(1) as pool:  # Both may hang.
        told = pool.submit(ask_version, command)
        findings = [*_start()]
    version = told.result().version
    older = ""
    if () < protocol.version_in(version or "") < protocol.OLDEST_THAT_LISTS:
        oldest = protocol.dotted(protocol.OLDEST_THAT_LISTS)
        older = f"use {oldest} or newer: the items that a failed test has left can be listed then"
    yield Finding("memcached", f"{command[0]}, {version or UNKNOWN}", older)
    for finding in findings:
        # What tells no version is hardly memcached. Else the error itself says what to do.
        is_unexplained = finding.fatal and not finding.remedy and version is None
        yield finding._replace(remedy=remedy(command[0])) if is_unexplained else finding


def _start() -> Iterator[Finding]:
    server = Memcached(start_timeout=START_TIMEOUT)
    try:
        with ExitStack() as stack:
            stack.callback(server.stop)
            start_ms = _milliseconds(server.start)
            if start_ms < SLOW:
                # What is imported on first use is imported now.
                server.stop()
                start_ms = _milliseconds(server.start)
            with closing(emptying.Emptier(ANSWER_TIMEOUT)) as emptier:
                shows_threads = emptier.shows_threads(server.address)
            abilities = [*_abilities(server.address)]
            stop_ms = _milliseconds(server.stop)
    except BinaryError as error:
        yield Finding("start", error.problem, error.remedy, True)
    except SandboxError as error:
        yield Finding("start", str(error), fatal=True)
    else:
        yield Finding("start", f"{start_ms:.1f} ms to start, {stop_ms:.1f} ms to stop")
        yield Finding("flush", SEEN_AT_REST if shows_threads else ASKED)
        yield from abilities
        yield from _user(server.command)


def _abilities(address: str) -> Iterator[Finding]:
    try:
        with protocol.Connection.to(address, ANSWER_TIMEOUT) as connection:
            connection.metadump()
    except (OSError, ProtocolError) as error:
        found = f"memcached {error}"
        yield Finding("items", found, "use a memcached whose crawler is not turned off")


def _user(command: Sequence[str]) -> Iterator[Finding]:
    if "-u" in command and os.geteuid() == 0:
        user = command[command.index("-u") + 1]
        if pwd.getpwnam(user).pw_uid == 0:
            yield Finding(
                "user",
                f"memcached runs as {user}, which may not give its files to the user 'nobody'",
                "run as another user, or grant CAP_CHOWN and CAP_DAC_OVERRIDE",
            )


def _milliseconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def _installed() -> Iterator[Finding]:
    for found in installed():
        about = f"{found.suite}, memcached {found.version}, package {found.package}"
        yield Finding("installed", about)


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
    _installed,
    _guard,
    _other_processes,
    _python,
]
