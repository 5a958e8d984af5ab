"""Maps main addresses to sandbox addresses for the run that this process is in."""

from __future__ import annotations

import os
import sys

from . import backends, guard, hooks, refusals
from .errors import ProtocolError, RunError, SandboxError

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Protocol

    from .emptying import Emptier
    from .refusals import Refusal

    class Source(Protocol):
        """Knows the sandbox addresses of a run."""

        def worker(self) -> str: ...
        def resolve(self, addresses: Iterable[str], worker: str) -> dict[str, str]: ...
        def others(self, worker: str) -> list[str]: ...
        def log(self, address: str) -> str: ...
        def report_refusal(self, refusal: Refusal) -> None: ...
        def outage(self, address: str) -> str: ...
        def begin_outage(self, address: str, kind: str) -> Callable[[], bool]: ...
        def restart(self, address: str) -> None: ...
        def mend(self, addresses: Collection[str]) -> bool: ...


# Bytes of the longest name of a test in a log. memcached may refuse a line of more than 1024.
LONGEST_NAME = 900

# Called with the addresses of servers that this process begins to use.
on_servers: list[Callable[[Collection[str]], None]] = []

# Called after each flush of the servers of this process.
after_flush: list[Callable[[], None]] = []


class Run:
    """Maps main addresses to sandbox addresses for one process, and flushes its servers."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.excluded = set(os.environ.get("MEMCACHED_SANDBOX_RUN_EXCLUDE", "").split())
        # How the user excludes an alias, which stands for {alias}.
        under_exec = "MEMCACHED_SANDBOX_CONTROL" in os.environ
        option = "--exclude " if under_exec else "MEMCACHED_SANDBOX_EXCLUDE="
        self.exclude_option = f"{option}{{alias}}"
        # Addresses of aliases that turn out to be memcached ones, or not, when they connect.
        self.unclear: set[str] = set()
        self.guards = bool(os.environ.get("MEMCACHED_SANDBOX_GUARDED"))
        # test or never or, where pytest knows of more, class, module or session.
        self.flushed_after = os.environ.get("MEMCACHED_SANDBOX_RUN_FLUSH", "test")
        self.crawls = bool(os.environ.get("MEMCACHED_SANDBOX_RUN_CRAWL"))
        self.worker = source.worker()
        self.worker_pid = 0
        # Sandbox addresses, by main address, or by one in `captured` that a backend was made with.
        self.resolved: dict[str, str] = {}
        # Those of other processes, which a worker may have captured before it had its own.
        self.captured: set[str] = set()
        # Whether servers are asked for when CACHES are read, not when settings load: a process that
        # leaves the tests to workers hardly ever reads them.
        self.defers = False
        self.tests_in = 0  # the process that takes refusals, to blame tests for them
        self._refusals: list[Refusal] = []  # those of this process
        # Whether the logs of the servers are read, test by test.
        self.marks_tests = bool(os.environ.get(hooks.MARKS))
        self._test = ""  # that is under way
        self._emptier: Emptier | None = None
        self._pid = os.getpid()
        self._flushed_in = 0  # the process that has flushed last: this one, or one that has forked
        self._restless: set[str] = set()

    def become_worker(self, name: str) -> dict[str, str]:
        """Makes this process, and those that it starts, a worker with servers of its own.

        :returns: its sandbox addresses, by those that this process had before.
        :raises RunError: the servers cannot be had.
        """
        self.worker_pid = os.getpid()
        self.worker = os.environ["MEMCACHED_SANDBOX_WORKER"] = name
        moved = self.source.resolve([*self.resolved.values(), *hooks.launched()], name)
        _move_variables(moved)
        self.resolved = {main: moved[address] for main, address in self.resolved.items()}
        guard.undelay(moved.values())
        self.captured = set(self.source.others(name))
        guard.capture(self.captured)
        return moved

    def resolve(self, addresses: Collection[str]) -> dict[str, str]:
        """Returns the sandbox address for each main address; that of a sandbox address is itself.

        :raises RunError: a server cannot be had.
        """
        servers = set(self.resolved.values())
        unknown = [a for a in addresses if a not in self.resolved and a not in servers]
        if unknown:
            self.resolved.update(self.source.resolve(unknown, self.worker))
            self.meet({self.resolved[address] for address in unknown})
        return {address: self.resolved.get(address, address) for address in addresses}

    def meet(self, servers: Collection[str]) -> None:
        """Prepares this process for servers that it has not used before.

        :raises RunError: one of them does not answer.
        """
        guard.undelay(servers)
        for callback in on_servers:
            callback(servers)
        if self._test:
            self._mark(servers)

    def is_main(self, address: str) -> bool:
        """Returns whether the address was resolved, to another one."""
        return self.resolved.get(address, address) != address

    def servers(self) -> set[str]:
        """Returns the addresses of the servers that this process uses."""
        first, *further = hooks.launched() or [""]
        return {*(self.resolved.values() or filter(None, [first])), *further}

    def begin_test(self, name: str) -> None:
        """Marks in the logs of the servers which test begins.

        :raises RunError: a server does not answer.
        """
        if self.marks_tests:
            self._test = name
            self._mark(self.servers())

    def _mark(self, addresses: Collection[str]) -> None:
        if not addresses:
            return
        from urllib.parse import quote
        from zlib import crc32

        name = quote(self._test).encode()
        if len(name) > LONGEST_NAME:
            name = b"%b...%08x" % (name[:LONGEST_NAME], crc32(name))
        try:
            self._connected_emptier().begin_test(addresses, name)
        except (OSError, ProtocolError) as error:
            raise RunError(f"the sandbox's memcached does not answer: {error}") from error

    def end_test(self) -> None:
        """Empties the servers of this process after an attempt at a test.

        :raises RunError: one of them cannot be emptied.
        """
        self._test = ""
        self.flush()

    def mend(self) -> None:
        """Ends the outages of the servers of this process, which a test has left.

        :raises RunError: one of them cannot be mended.
        """
        try:
            were_broken = self.source.mend(self.servers())
        except SandboxError as error:
            raise RunError(str(error)) from error
        if were_broken or backends.are_stale:
            backends.renew()

    def flush(self) -> None:
        """Empties the servers of this process.

        :raises RunError: one of them cannot be emptied.
        """
        addresses = self.servers()
        if not addresses:
            return  # Many processes of a run use no cache.
        self.mend()
        try:
            restless = self._connected_emptier().empty(addresses, self.crawls)
        except (OSError, ProtocolError) as error:
            raise RunError(f"the sandbox's memcached cannot be emptied: {error}") from error
        for address in set(restless).difference(self._restless):
            self._restless.add(address)
            self.report_refusal(refusals.Refusal(address, "", "", refusals.RESTLESS))
        for callback in after_flush:
            callback()
        if self._test:
            self._mark(addresses)  # It goes on, as one of Hypothesis does after each example.

    def _connected_emptier(self) -> Emptier:
        if self._emptier is None:
            import atexit

            from .emptying import Emptier
            from .protocol import ANSWER_TIMEOUT

            self._emptier = Emptier(ANSWER_TIMEOUT, ends_tests=True)
            atexit.register(self.disconnect)
        if self._flushed_in != os.getpid():
            self._flushed_in = os.getpid()
            if not self._runs_atexit():
                self._report_flushes("")
        return self._emptier

    def disconnect(self) -> None:
        """Closes the connections that `flush` has kept."""
        if self._emptier is not None:
            import atexit

            atexit.unregister(self.disconnect)
            self._emptier.close()
            if self._flushed_in == os.getpid() and self._runs_atexit():
                tally = self._emptier.tally
                self._report_flushes(f"{tally.connections} {tally.bytes_sent}")
            self._emptier = None
            self._flushed_in = 0

    def _runs_atexit(self) -> bool:
        """Returns whether this process runs its exit handlers, unless it is killed.

        A child of multiprocessing may not, nor may a fork.
        """
        process = sys.modules.get("multiprocessing.process")
        is_child = process is not None and process.parent_process() is not None
        return not is_child and self._pid == os.getpid()

    def _report_flushes(self, sent: str) -> None:
        """Tells the owner that this process has flushed servers, if it was not led to them.

        Otherwise the owner would take the flushes for use of its servers.
        """
        if not self.resolved:
            try:
                self.source.report_refusal(refusals.Refusal("", "", sent, refusals.FLUSHED))
            except RunError:
                pass  # It was printed, and has no say in whether the flushes have worked.

    def take_refusals(self) -> list[Refusal]:
        """Returns the refusals in this process and its children since the last call."""
        taken, self._refusals = self._refusals, []
        path = os.environ.get(refusals.VARIABLE)
        return taken + (refusals.take(path) if path else [])

    def defer(self, addresses: Iterable[str]) -> None:
        """Tells the owner of main addresses for which servers are asked for later.

        :raises RunError: it does not answer.
        """
        from .sources import SocketSource

        if isinstance(self.source, SocketSource):
            self.source.tell_mains(addresses)

    def is_led(self, refusal: Refusal) -> bool:
        """Returns whether it is left to the kernel to lead a connection, or to refuse it.

        :raises RunError: the owner does not answer, or cannot start the server.
        """
        from .sources import SocketSource

        leads = os.environ.get(hooks.LEADS)
        is_led = leads == "all" or (leads == "workers" and refusal.kind == refusals.CAPTURED)
        if not is_led or not isinstance(self.source, SocketSource):
            return False
        server = self.source.leads(refusal, self.worker)
        if server:
            self.resolved.setdefault(refusal.address, server)  # It is flushed like the others.
        return server is not None

    def report_refusal(self, refusal: Refusal) -> None:
        """Tells the run that a connection to a main memcached was refused."""
        path = os.environ.get(refusals.VARIABLE)
        if path and self.tests_in != os.getpid():
            refusals.append(path, refusal)
        else:
            self._refusals.append(refusal)
        self.source.report_refusal(refusal)


def _move_variables(moved: dict[str, str]) -> None:
    """Puts a worker's addresses in place of others, or its port where a variable is one.

    Those of ``--env`` name servers in the user's words. The tables of a local run stay.
    """
    import re

    from .address import Address
    from .sources import LOGS

    tables = ("MEMCACHED_SANDBOX_ADDRESSES", LOGS)
    for name, before in [*os.environ.items()]:
        text = before
        for old, new in moved.items() if name not in tables else ():
            if old in text:
                text = re.sub(rf"{re.escape(old)}(?!\d)", new.replace("\\", r"\\"), text)
            elif text and text == Address(old).port:
                text = Address(new).port
        if text != before:
            os.environ[name] = text


_run: Run | None = None


def current_run() -> Run:
    """Returns the run that this process is in: the environment names it if no code has."""
    global _run  # noqa: PLW0603
    if _run is None:
        from .sources import OWNER, EnvironmentSource, SocketSource, failed

        control = os.environ.get("MEMCACHED_SANDBOX_CONTROL") or os.environ.get(OWNER)
        source = SocketSource(control) if control else EnvironmentSource()
        if hooks.lost:
            lost = " and ".join(hooks.lost)
            error = failed(
                f"this process has the PYTHONPATH of a sandbox, but not {lost}:"
                " pass on all variables MEMCACHED_SANDBOX_* to it"
            )
            try:
                source.report_refusal(refusals.Refusal(lost, "", "", refusals.LOST))
            except RunError:
                pass  # It was printed, too.
            raise error
        _run = Run(source)
    return _run


def current_run_or_none() -> Run | None:
    """Returns the run that this process is in if any code has asked for it."""
    return _run


def replace_run(run: Run | None) -> Run | None:
    """Puts this process into another run, or into that of its environment; returns the old one."""
    global _run
    old, _run = _run, run
    return old
