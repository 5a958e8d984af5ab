"""What ``sandbox exec`` says on stderr: stdout belongs to the command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..inject import run
    from ..memcached import Memcached
    from ..sandbox import Sandbox


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
            if server not in self._dead and (death := server.death()):
                self._dead[server] = death
                say(f"memcached at {server.address} {death}.")

    def survivors(self) -> list[Memcached]:
        """Tell once more who died, and return who did not."""
        self.look()  # one that died last is as likely to be seen here first
        for server, death in self._dead.items():
            say(f"memcached at {server.address} did not live to the end of the run: it {death}.")
        return [server for server in self._sandbox.servers if server not in self._dead]


def summary(servers: Sequence[Memcached]) -> str:
    """Return the run in one line: what it asked of its servers, and how full they became.

    Raises ServerError.
    """
    stats = [server.stats() for server in servers]
    gets, hits, sets, evictions = (
        sum(int(counters[name]) for counters in stats)
        for name in ("cmd_get", "get_hits", "cmd_set", "evictions")
    )
    hit_rate = f" ({100 * hits / gets:.1f} % hits)" if gets else ""
    # Pages that a slab class took are never given back, so that their sum is its own peak.
    peak = max(int(server.stats("slabs")["total_malloced"]) for server in servers)
    line = (
        f"{gets:,} gets{hit_rate}, {sets:,} sets, {evictions:,} evictions, "
        f"peak memory {peak / (1024 * 1024):.1f} of {servers[0].memory_mb} MB"
    )
    return line if len(servers) == 1 else f"{line} in the fullest of {len(servers)} servers"


def refused(refusals: Sequence[run.Refusal]) -> str:
    """Return in one line what was refused, and where to look first."""
    first = refusals[0]
    times = "once" if len(refusals) == 1 else f"{len(refusals)} times"
    addresses = ", ".join(sorted({refusal.address for refusal in refusals}))
    alias = f", CACHES[{first.alias!r}]," if first.alias else ""
    return (
        f"connecting to the main memcached was refused {times} ({addresses}); "
        f"first to {first.address}{alias} at {first.at}"
    )
