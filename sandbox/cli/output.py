"""Prints what the commands say: on stderr, for stdout belongs to the command that is run."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import click

from ..errors import SandboxError, explain_limit, printable

if TYPE_CHECKING:
    from typing import TextIO

    from ..run.sandbox import Sandbox
    from ..server.memcached import Memcached


# The exit statuses that are the sandbox's own, and not those of a command that ``exec`` runs.
PROBLEM = 1
USAGE = 2
FAILURE = 125
INTERRUPTED = 130


def say(line: str) -> None:
    """Prints a line on stderr, with the name of the command before it."""
    say_as_it_is(f"sandbox: {line}")


def say_as_it_is(line: str) -> None:
    """Prints a line on stderr."""
    with suppress(OSError):  # It may have gone away: the exit status still tells.
        click.echo(printable(line), err=True)


def describe(error: Exception) -> str:
    """Returns the kind and the text of an error, or the limit of this machine that it means."""
    if isinstance(error, OSError) and (limit := explain_limit(error)):
        return limit
    name, text = type(error).__name__, str(error)
    return f"{name}: {text}" if text else name


@contextmanager
def standard_streams() -> Iterator[None]:
    """Explains why stdout cannot be written, and ignores that stderr cannot, in its context.

    Characters that a terminal cannot show are escaped.
    """
    with (
        redirect_stdout(_stream(sys.stdout, _Stdout)),
        redirect_stderr(_stream(sys.stderr, _Stderr)),
    ):
        yield


def _stream(stream: TextIO | None, kind: type[io.FileIO]) -> io.TextIOWrapper:
    if stream is None:
        # Closed. What is opened next would get its number; and it cannot be written, nor can this.
        descriptor, encoding = os.open(os.devnull, os.O_RDONLY), "utf-8"
    else:
        descriptor, encoding = stream.fileno(), stream.encoding
    raw = kind(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True
    )


def print_statements(text: str) -> None:
    """Prints what a shell evaluates: unlike for other output, a reader that has gone is an error.

    :raises SandboxError: stdout cannot be written.
    """
    try:
        click.echo(os.fsencode(text), nl=False)
    except BrokenPipeError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> SandboxError:
    return SandboxError(f"stdout cannot be written: {error.strerror}")


class _Stdout(io.FileIO):
    """Raises a SandboxError when it cannot be written.

    A reader that has gone is a BrokenPipeError: click exits silently then.
    """

    _has_failed = False

    def write(self, data: Any, /) -> int:
        """Writes bytes and returns how many were written."""
        try:
            return super().write(data)
        except OSError as error:
            if self._has_failed:
                return len(data)  # What is left in the buffer, at the exit.
            self._has_failed = True
            if isinstance(error, BrokenPipeError):
                raise
            raise _unwritable(error) from None


class _Stderr(io.FileIO):
    """Drops what cannot be written: the exit status still tells."""

    def write(self, data: Any, /) -> int:
        """Writes bytes and returns how many there were."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


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
    lines = [headings, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _cut(GAP.join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)), width)
        for line in lines
    )


def _cut(line: str, width: int | None) -> str:
    line = line.rstrip()
    return line if width is None or len(line) <= width else line[: width - 3] + "..."
