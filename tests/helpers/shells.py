"""Shells that read their lines from a test, and the lines that start and stop a sandbox there."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox.registry import inventory

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet
    from typing_extensions import Self

# The line that starts a sandbox in each shell.
EVALUATED = {
    "sh": 'eval "$(sandbox start{options})"',
    "bash": 'eval "$(sandbox start{options})"',
    "zsh": 'eval "$(sandbox start{options})"',
    "fish": "sandbox start --shell fish{options} | source",
}

# The line that stops it and unsets its variables.
FORGOTTEN = {
    "sh": 'eval "$(sandbox stop)"',
    "bash": 'eval "$(sandbox stop)"',
    "zsh": 'eval "$(sandbox stop)"',
    "fish": "sandbox stop | source",
}


def if_here(name: str) -> ParameterSet:
    """Return the parameter of a test that is skipped on machines without that shell."""
    missing = shutil.which(name) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"there is no {name} here"))


each_shell = pytest.mark.parametrize("shell", [*map(if_here, EVALUATED)])


class Shell:
    """Runs a shell that reads its lines from the test."""

    def __init__(self, name: str) -> None:
        # fish reads a whole script before it runs the first line.
        line_by_line = ["-c", "while read --local line; eval $line; end"] if name == "fish" else []
        self.process = subprocess.Popen(
            [name, *line_by_line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, line: str) -> str:
        """Run a line and return what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\necho; echo END-OF-OUTPUT\n")
        self.process.stdin.flush()
        output = ""
        while not output.endswith("\nEND-OF-OUTPUT\n"):
            more = self.process.stdout.readline()
            assert more, output
            output += more
        return output.removesuffix("\nEND-OF-OUTPUT\n").removesuffix("\n")

    def variables(self) -> dict[str, str]:
        pairs = (line.partition("=") for line in self.run("env").splitlines())
        return {name: value for name, _, value in pairs}

    def server(self) -> psutil.Process:
        """Return the memcached of the sandbox that was started in this shell."""
        return psutil.Process(self.server_pid())

    def server_pid(self) -> int:
        """Return the pid of this memcached, which may have ended."""
        return int(self.variables()["MEMCACHED_SANDBOX_PID"])

    def daemon(self) -> psutil.Process:
        """Return the background process that owns the sandbox."""
        daemon = self.server().parent()
        assert daemon is not None
        return daemon

    def id(self) -> str:
        """Return the ID of the server that was started first."""
        pid = self.server().pid
        (server,) = (s for s in inventory.servers()[0] if s.record.server.pid == pid)
        return server.directory.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
