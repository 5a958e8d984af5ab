"""Formats the summary of a run: the use of its servers, and the refused connections."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ProtocolError, ServerError, explain_limit, printable
from ..inject import emptying, protocol, refusals
from ..inspection.names import counted
from ..server import first_items

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..inspection.follower import FollowerByTest
    from ..inspection.report import Report
    from ..inspection.wanted import Wanted
    from ..server import Item, Server
    from ..server.memcached import Memcached

MB = 1024 * 1024

# The command by which a server is asked for its counters, as memcached has read it by then.
ASKED = len(b"stats\r\n")

# How many items of a server are listed.
MOST_ITEMS = 20

# How many places are named where something was started, or led to the sandbox.
MOST_PLACES = 3

# How many different connections are listed that the kernel guard has refused.
MOST_BARRED = 20


class Line(NamedTuple):
    """Holds a line of the summary, whether something went wrong, and whether a list goes on."""

    text: str
    is_problem: bool = False
    is_warning: bool = False
    continues: bool = False

    def titled(self, title: str) -> str:
        """Returns the line as it is printed."""
        return self.text if self.continues else f"{title}: {self.text}"


class Summary:
    """Collects what a run tells at its end; the ways in only print its lines.

    :param memory_option: the option to raise if items were evicted, as it is called there.
    :param strict: fail for a refused connection, and if nothing used the run.
    :param quiet: tell only what went wrong.
    """

    def __init__(self, memory_option: str, strict: bool = False, quiet: bool = False) -> None:
        self.refusals: list[refusals.Refusal] = []
        self.has_others = False  # Tests had servers that are not added here.
        self.report: Report | None = None  # if one is wanted
        self._has_lost_file = False
        self._memory_option = memory_option
        self._strict = strict
        self._quiet = quiet
        self._usages: list[Usage] = []
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._unused = ""

    @property
    def counts_use(self) -> bool:
        """Whether it matters what used the servers."""
        return self._strict or not self._quiet or self.report is not None

    @property
    def has_servers(self) -> bool:
        """Whether a server was added, or tests had others."""
        return bool(self._usages) or self.has_others

    @property
    def has_failed(self) -> bool:
        """Whether the run fails for what the summary tells, or cannot write."""
        is_fault = bool(self._unused or refusals.faults(self.refusals))
        return (self._strict and is_fault) or self._has_lost_file

    def add_note(self, note: str) -> None:
        """Tells of something that may be as it should."""
        self._notes.append(note)

    def expect(self, wanted: Wanted) -> None:
        """Has the summary tell what tests did to the caches."""
        from ..inspection.report import Report

        self.report = Report(wanted)

    def add_followers(self, followers: Iterable[FollowerByTest]) -> None:
        """Adds what was seen in the logs of servers."""
        if self.report is not None:
            self.report.add(followers)

    def add_problem(self, problem: str) -> None:
        """Tells that something went wrong."""
        self._problems.append(problem)

    def write_files(self) -> None:
        """Writes the files that are wanted."""
        for path, error in () if self.report is None else self.report.write():
            self._has_lost_file = True
            reason = explain_limit(error) or error.strerror
            self._problems.append(f"{path} cannot be written: {reason}.")

    def add_servers(self, servers: Sequence[Server]) -> None:
        """Asks servers what they were used for, once they are mended."""
        try:
            for server in servers:
                server.mend()
                self._usages.append(Usage.of(server))
        except ServerError as error:
            self._problems.append(f"{error}.")

    def shows_use(self, servers: Sequence[Memcached]) -> bool:
        """Returns whether programs may have used servers, other than to flush them after tests.

        :param servers: those that were added, and those that have ended.
        """
        usage = Usage.sum(self._usages)
        kinds = {refusal.kind for refusal in self.refusals}
        if usage.operations or usage.outages or usage.servers < len(servers):
            return True
        if kinds & {refusals.NESTED, refusals.LED, refusals.LED_HOME}:
            return True
        flushes = [refusal.at for refusal in self.refusals if refusal.kind == refusals.FLUSHED]
        if not all(flushes):
            return False  # It is not known how much of the rest were flushes.
        tallies = [[*map(int, tally.split())] for tally in flushes]
        tallies += [[s.asked.connections, s.asked.bytes_sent] for s in servers if s.asked]
        tallies.append([usage.servers, usage.servers * ASKED])
        connections, bytes_sent = map(sum, zip(*tallies, strict=True))
        # memcached counts its listening socket as a connection, until a program says "stats reset":
        # a server that only this summary asked has two.
        was_reset = usage.connections < connections + usage.servers
        return was_reset or usage.bytes_read != bytes_sent

    def report_unused(self, otherwise: str, hint: str = "") -> None:
        """Tells that nothing used the run, and why, if that matters.

        :param otherwise: the reason, if what processes have reported is none.
        :param hint: what would have helped.
        """
        if self._quiet and not self._strict:
            return
        lost = dict.fromkeys(r.address for r in self.refusals if r.kind == refusals.LOST)
        others = {r.alias: r.address for r in self.refusals if r.kind == refusals.OTHER}
        reason = otherwise
        if lost:
            reason = (
                f"a process had its PYTHONPATH, but not {', or not '.join(lost)}: "
                "pass on all variables MEMCACHED_SANDBOX_*"
            )
        elif others:
            classes = ", ".join(f"{alias!r} is {name}" for alias, name in others.items())
            reason = f"no alias of CACHES is a memcached ({classes})"
        elif any(refusal.kind == refusals.EXCLUDED for refusal in self.refusals):
            reason = "each memcached alias of CACHES is excluded"
        advice = f"; {hint}" if hint else ""
        self._unused = f"nothing used the sandbox: {printable(reason)}{advice}"

    def packed(self) -> Any:
        """Returns all of it in lists and tuples, for another process to unpack."""
        told = [*map(tuple, self._usages)], [*map(tuple, self.refusals)], self._problems
        return *told, self.has_others, self.report and self.report.packed()

    def add_packed(self, packed: Any) -> None:
        """Adds what `packed` has returned in another process."""
        usages, refused, problems, has_others, report = packed
        self._usages += [Usage(*usage) for usage in usages]
        self.refusals += [refusals.Refusal(*refusal) for refusal in refused]
        self._problems += problems
        self.has_others = self.has_others or has_others
        if self.report is not None and report:
            self.report.add_packed(report)

    def lines(self) -> list[Line]:
        """Returns the lines of the summary."""
        lines = []
        if self._unused:
            lines.append(Line(self._unused, is_warning=True))
        elif self._usages and not self._quiet:
            usage = Usage.sum(self._usages)
            lines.append(Line(usage.line(self._memory_option), is_warning=bool(usage.evictions)))
        lines += [Line(problem, is_problem=True) for problem in self._problems]
        told = [r for r in self.refusals if not (self._quiet and r.kind in refusals.ROUTINE)]
        lines += [Line(line, is_problem=True) for line in refused(told)]
        lines += [Line(note) for note in self._notes if not self._quiet]
        if self.report is not None:
            evictions = Usage.sum(self._usages).evictions
            lines += [
                Line(line, is_warning=is_warning, continues=line.startswith(" "))
                for line, is_warning in self.report.lines(evictions, self._quiet)
            ]
        return lines


class Usage(NamedTuple):
    """Counters of some servers. ``peak`` and ``cap``, in bytes, are those of the fullest one."""

    servers: int = 0
    gets: int = 0
    hits: int = 0
    sets: int = 0
    evictions: int = 0
    operations: int = 0
    connections: int = 0
    bytes_read: int = 0
    outages: int = 0
    peak: int = 0
    cap: int = 0

    @classmethod
    def of(cls, server: Server) -> Self:
        """Asks a server of this run, and adds what its earlier processes have counted.

        :raises ServerError: it does not answer as memcached does.
        """
        counters = [server.counters(), *server.ended]
        try:
            usages = [cls._of_process(each) for each in counters]
        except ProtocolError as error:
            raise ServerError(f"memcached at {server.address} {error}") from error
        return cls.sum(usages)._replace(servers=1, outages=server.outages)

    @classmethod
    def _of_process(cls, counters: Mapping[str, str]) -> Self:
        gets, hits, sets, evictions, connections, bytes_read, peak, cap, *operations = (
            protocol.number(counters, name)
            for name in (
                *("cmd_get", "get_hits", "cmd_set", "evictions"),
                *("total_connections", "bytes_read", "total_malloced", "limit_maxbytes"),
                *protocol.OPERATIONS,
            )
        )
        counts = (gets, hits, sets, evictions, sum(operations), connections, bytes_read, 0)
        # Pages that a slab class took are never given back: their sum is its own peak.
        return cls(1, *counts, peak, cap)

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Self:
        """Returns what all of them were used for."""
        usages = list(usages)
        fullest = max(usages, key=lambda usage: usage.peak, default=cls())
        counts = map(sum, zip(*(usage[:-2] for usage in usages), strict=True))
        return cls(*counts)._replace(peak=fullest.peak, cap=fullest.cap)

    def line(self, option: str) -> str:
        """Returns it in one line, which names the option to raise if items were evicted."""
        hit_rate = f" ({100 * self.hits / self.gets:.1f} % hits)" if self.gets else ""
        line = (
            f"{counted(self.gets, 'get')}{hit_rate}, {counted(self.sets, 'set')}, "
            f"{counted(self.evictions, 'eviction')}, "
            f"{counted(self.outages, 'outage') + ', ' if self.outages else ''}"
            f"peak memory {self.peak / MB:.1f} of {self.cap // MB} MB"
        )
        if self.servers > 1:
            line += f" in the fullest of {self.servers} servers"
        if self.evictions:
            line += f"; memcached had to evict: raise {option}"
        return line


def refused(taken: Iterable[refusals.Refusal]) -> list[str]:
    """Returns a line for each kind of refusals: what was refused, and where to look first."""
    kinds: dict[str, list[refusals.Refusal]] = {}
    for refusal in taken:
        if refusal.kind not in refusals.NOTES:
            kinds.setdefault(refusal.kind, []).append(refusal)
    barred = kinds.pop(refusals.BARRED, [])
    lines = [_refused(kind, of_kind) for kind, of_kind in kinds.items()]
    return [printable(line) for line in [*lines, *_barred(barred)]]


def _refused(kind: str, taken: Sequence[refusals.Refusal]) -> str:
    first = taken[0]
    times = "once" if len(taken) == 1 else f"{len(taken)} times"
    addresses = ", ".join(sorted({refusal.address for refusal in taken}))
    if kind == refusals.CAPTURED:
        return (
            f"connecting to the server of another process was refused {times} ({addresses}); "
            f"first at {first.at}: this address was captured before the fork; take it from "
            "settings when the test runs"
        )
    if kind == refusals.USED:
        used = ", ".join(f"{refusal.at} at {refusal.address}" for refusal in taken)
        return (
            f"while workers ran, a server of their main process was used: {used}; if that was in a "
            "worker, its client must take its address from settings when the test runs"
        )
    if kind == refusals.OPEN:
        return (
            f"a worker had a connection to the server of another process from before the fork "
            f"{times} ({addresses}); first opened at {first.at}: connect when the test runs"
        )
    if kind == refusals.EXCLUDED:
        left = dict.fromkeys(f"{refusal.alias!r} at {refusal.address}" for refusal in taken)
        return f"excluded aliases were left where they are: {', '.join(left)}"
    if kind == refusals.CHILD:
        started = _places(taken)
        return f"a Python was started without the sandbox{started}: it may use the main memcached"
    if kind in (refusals.LED, refusals.LED_HOME, refusals.UNSEEN, refusals.BROKEN):
        return _of_kernel_guard(kind, taken)
    if kind == refusals.RESTLESS:
        return f"the memcached at {addresses} {emptying.RESTLESS}"
    alias = f", CACHES[{first.alias!r}]," if first.alias else ""
    return (
        f"connecting to the main memcached was refused {times} ({addresses}); "
        f"first to {first.address}{alias} at {first.at}"
    )


def _of_kernel_guard(kind: str, taken: Sequence[refusals.Refusal]) -> str:
    """Returns a line about what the kernel guard has led, or could not decide."""
    first = taken[0]
    count = "a connection" if len(taken) == 1 else f"{len(taken):,} connections"
    if kind in (refusals.LED, refusals.LED_HOME):
        led, places = "was led to" if len(taken) == 1 else "were led to", _places(taken, "of")
        if kind == refusals.LED:
            return f"{count} to the main memcached {led} the sandbox{places}"
        return f"{count} to the server of another process {led} the worker's own{places}"
    if kind == refusals.BROKEN:
        return f"the kernel guard failed, and refused {count}, first of {first.at}: {first.address}"
    unseen = f"{len(taken)} processes, {first.at} first" if len(taken) > 1 else first.at
    return f"the kernel guard could not look at {unseen}: connections were not guarded"


def _barred(taken: Iterable[refusals.Refusal]) -> list[str]:
    """Returns a line for each kind of connection that the kernel guard has refused."""
    # Many processes may have the same command.
    alike: dict[refusals.Refusal, list[refusals.Refusal]] = {}
    for refusal in taken:
        alike.setdefault(refusal._replace(at=_without_pid(refusal.at)), []).append(refusal)
    lines = []
    for first, *others in [*alike.values()][:MOST_BARRED]:
        alias = f", CACHES[{first.alias!r}]," if first.alias else ""
        times = f"{len(others) + 1:,} times" if others else "once"
        more = len({refusal.at for refusal in (first, *others)}) - 1
        further = f" and {more:,} more process{'es' * (more > 1)}" if more else ""
        lines.append(
            f"connecting to the main memcached at {first.address}{alias} was refused {times} by "
            f"the kernel guard, to {first.at}{further}"
        )
    if (more := len(alike) - MOST_BARRED) > 0:
        lines.append(f"and {more:,} more of these")
    return lines


def _without_pid(at: str) -> str:
    return re.sub(r"\bprocess \d+", "process", at)


def _places(taken: Iterable[refusals.Refusal], joint: str = "at") -> str:
    """Returns what was started where: some of it if it is much.

    :param joint: what stands between an address and its place.
    """
    # Several processes may have reported the same place, or have the same command.
    alike = {(r.address, _without_pid(r.at)): f"{r.address} {joint} {r.at}" for r in taken}
    places = [*alike.values()]
    count = f" at {len(places)} places" if len(places) > 1 else ""
    more = len(places) - MOST_PLACES
    return f"{count}: {', '.join(places[:MOST_PLACES])}{f', and {more} more' * (more > 0)}"


def contents(server: Server) -> str:
    """Returns what a server holds: a line for each of some items, and one for the rest."""
    try:
        items, count = first_items(server, MOST_ITEMS + 1)
    except ServerError as error:
        return f"{error}."
    now = time.time()
    shown = sorted(items[:MOST_ITEMS])
    keys = [printable(item.key) for item in shown]
    width = max(map(len, keys), default=0)
    # The dash: no key begins a line, where a CI would look for its own commands.
    lines = [
        f"- {key:{width}}  {_described(item, now)}" for key, item in zip(keys, shown, strict=True)
    ]
    if len(items) > len(shown):
        lines.append(f"and up to {max(1, count - len(shown)):,} more")
    return "\n".join(lines or ["no items"])


def _described(item: Item, now: float) -> str:
    expiry = "never" if item.expires is None else f"in {max(item.expires - now, 0):.0f} s"
    return f"{item.size:,} bytes, expires {expiry}"
