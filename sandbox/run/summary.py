"""What a run tells of its servers and of what it refused, in the same words in every way in."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ServerError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..inject import refusals
    from ..server import Item, Server

MB = 1024 * 1024

MOST_ITEMS = 20


class Usage(NamedTuple):
    """What servers were used for. ``peak`` and ``cap``, in bytes, are those of the fullest."""

    servers: int = 0
    gets: int = 0
    hits: int = 0
    sets: int = 0
    evictions: int = 0
    peak: int = 0
    cap: int = 0

    @classmethod
    def of(cls, servers: Iterable[Server]) -> Self:
        """Ask servers that nobody else uses. Raises ServerError."""
        return cls.sum(cls._of(server) for server in servers)

    @classmethod
    def _of(cls, server: Server) -> Self:
        counters = server.stats()
        return cls(
            servers=1,
            gets=int(counters["cmd_get"]),
            hits=int(counters["get_hits"]),
            sets=int(counters["cmd_set"]),
            evictions=int(counters["evictions"]),
            # Pages that a slab class took are never given back: their sum is its own peak.
            peak=int(server.stats("slabs")["total_malloced"]),
            cap=int(counters["limit_maxbytes"]),
        )

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Self:
        """Return what all of them were used for."""
        usages = list(usages)
        fullest = max(usages, key=lambda usage: usage.peak, default=cls())
        counts = map(sum, zip(*(usage[:5] for usage in usages), strict=True))
        return cls(*counts)._replace(peak=fullest.peak, cap=fullest.cap)

    def line(self, option: str) -> str:
        """Return it in one line, which names the option to raise if there were evictions."""
        hit_rate = f" ({100 * self.hits / self.gets:.1f} % hits)" if self.gets else ""
        line = (
            f"{self.gets:,} gets{hit_rate}, {self.sets:,} sets, {self.evictions:,} evictions, "
            f"peak memory {self.peak / MB:.1f} of {self.cap // MB} MB"
        )
        if self.servers > 1:
            line += f" in the fullest of {self.servers} servers"
        if self.evictions:
            line += f"; memcached had to evict: raise {option}"
        return line


def refused(taken: Sequence[refusals.Refusal]) -> str:
    """Return in one line what was refused, and where to look first."""
    first = taken[0]
    times = "once" if len(taken) == 1 else f"{len(taken)} times"
    addresses = ", ".join(sorted({refusal.address for refusal in taken}))
    alias = f", CACHES[{first.alias!r}]," if first.alias else ""
    return (
        f"connecting to the main memcached was refused {times} ({addresses}); "
        f"first to {first.address}{alias} at {first.at}"
    )


def contents(server: Server) -> str:
    """Return what a server holds: a line for each of the first items, and one for the rest."""
    try:
        items = sorted(server.items())
    except ServerError as error:
        return f"{error}."
    now = time.time()
    shown = items[:MOST_ITEMS]
    width = max((len(item.key) for item in shown), default=0)
    lines = [f"{item.key:{width}}  {_described(item, now)}" for item in shown] or ["no items"]
    if len(items) > len(shown):
        lines.append(f"and {len(items) - len(shown)} more")
    return "\n".join(lines)


def _described(item: Item, now: float) -> str:
    expiry = "never" if item.expires is None else f"in {max(item.expires - now, 0):.0f} s"
    return f"{item.size:,} bytes, expires {expiry}"
