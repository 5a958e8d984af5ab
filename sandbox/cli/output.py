"""Prints what the commands say: on stderr, for stdout belongs to the command that is run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.memcached import Memcached


# The exit statuses that are the sandbox's own, and not those of a command that ``exec`` runs.
PROBLEM = 1
USAGE = 2
FAILURE = 125
INTERRUPTED = 130


def say(line: str) -> None:
    """Prints a line on stderr."""
    with suppress(OSError):  # It may have gone away: the exit status still tells.
        click.echo(f"sandbox: {line}", err=True)


class ExitWatcher:
    """Reports servers that ended before their time, each once when it happens."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._reasons: dict[Memcached, str] = {}

    def check(self) -> None:
        """Reports the servers that have ended since the last time."""
        for server in self._sandbox.servers:
            if server not in self._reasons and (reason := server.exit_reason()):
                self._reasons[server] = reason
                say(f"memcached at {server.address} {reason}.")

    def running(self) -> list[Memcached]:
        """Reports all servers that have ended once more, and returns the others."""
        self.check()  # The last one to end is as likely to be seen here first.
        for server, reason in self._reasons.items():
            say(f"memcached at {server.address} did not live to the end of the run: it {reason}.")
        return [server for server in self._sandbox.servers if server not in self._reasons]


GAP = "  "


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Returns the rows below their headings, cut off where the terminal ends.

    :param width: that of the terminal, in characters; None to cut nothing off.
    """
    lines = [headings, *([_in_one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _cut(GAP.join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)), width)
        for line in lines
    )


def _in_one_line(cell: str) -> str:
    """Replaces what a command may have in it: line ends, terminal sequences, undecodable bytes."""
    return "".join(character if character.isprintable() else " " for character in cell)


def _cut(line: str, width: int | None) -> str:
    line = line.rstrip()
    return line if width is None or len(line) <= width else line[: width - 3] + "..."
