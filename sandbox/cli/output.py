"""How the commands speak: on stderr, for stdout belongs to the command that is run."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.memcached import Memcached


def say(line: str) -> None:
    with suppress(BrokenPipeError):  # stderr has gone away, as it may: the status still tells
        click.echo(f"sandbox: {line}", err=True)


class Deaths:
    """Tells of servers that died before their time, each once when it happens."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._dead: dict[Memcached, str] = {}

    def look(self) -> None:
        for server in self._sandbox.servers:
            if server not in self._dead and (death := server.exit_reason()):
                self._dead[server] = death
                say(f"memcached at {server.address} {death}.")

    def survivors(self) -> list[Memcached]:
        """Tell once more who died, and return who did not."""
        self.look()  # one that died last is as likely to be seen here first
        for server, death in self._dead.items():
            say(f"memcached at {server.address} did not live to the end of the run: it {death}.")
        return [server for server in self._sandbox.servers if server not in self._dead]
