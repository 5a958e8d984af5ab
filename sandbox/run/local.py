"""Runs that this process owns, or joins, while a context lasts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..inject import flushing, guard, hooks, refusals, run, sources
from ..server.binary import find_memcached
from ..server.options import check
from .environment import (
    ADDRESSES,
    Injection,
    child_variables,
    injection,
    restored_environ,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..inspection.inspector import Inspector
    from ..server.memcached import Memcached
    from ..server.options import MemcachedOptions
    from .control import Control


class LocalSource:
    """Owns the servers of a run, and starts them when they are first asked for."""

    def __init__(self, options: MemcachedOptions, inspector: Inspector | None = None) -> None:
        from .sandbox import Sandbox  # A process that only joins a run needs none.

        self._sandbox = Sandbox(**options)
        self._sandbox.inspector = inspector
        self._control: Control | None = None
        self._owner = os.getpid()
        self._worker_sets = 0

    def worker(self) -> str:
        """Returns the name of the worker that this process is; "" if it is none."""
        return ""

    def resolve(self, addresses: Iterable[str], worker: str) -> dict[str, str]:
        """Returns the sandbox address for each main address, and tells later children.

        :raises SandboxError: a server cannot be started.
        """
        if self._control is not None and self._owner != os.getpid():
            return sources.SocketSource(self._control.path).resolve(addresses, worker)
        resolved = self._sandbox.resolve(addresses, sources.set_of(worker, self._worker_sets))
        self.publish()
        return resolved

    def others(self, worker: str) -> list[str]:
        """Returns the addresses of the servers of the run that this worker does not use."""
        return self._sandbox.others(sources.set_of(worker, self._worker_sets))

    def log(self, address: str) -> str:
        """Returns the path of what a server of the run prints; "" if it is none."""
        return self._sandbox.log(address)

    def outage(self, address: str) -> str:
        """Returns the outage that a server of the run is in; "" if it is in none."""
        server = self._sandbox.server_at(address)
        return "" if server is None else server.outage

    def begin_outage(self, address: str, kind: str) -> Callable[[], bool]:
        """Begins an outage of a server; returns the function that ends it.

        :raises ServerError: it cannot be had.
        """
        return self._sandbox.started_at(address)._begin_outage(kind)

    def restart(self, address: str) -> None:
        """Kills a server, and starts it anew.

        :raises ServerError: that cannot be done.
        """
        self._sandbox.started_at(address)._restart()

    def mend(self, addresses: Collection[str]) -> bool:
        """Ends the outages of servers; returns whether there was one.

        :raises ServerError: one of them cannot be started again.
        """
        are_broken = any(server.outage for server in self._sandbox.servers)
        return are_broken and self._sandbox.mend(addresses)

    def report_refusal(self, refusal: refusals.Refusal) -> None:
        """Does nothing: this process has the refusal already."""

    def servers(self) -> list[Memcached]:
        """Returns the servers that were started, in that order."""
        return self._sandbox.servers

    def first_server(self) -> Memcached:
        """Returns the server that was started first, or starts one."""
        if not self._sandbox.servers:
            (server,) = self._sandbox.launch(1)
            server.wait()
            self.publish()
        return self._sandbox.servers[0]

    def start_worker_sets(self, addresses: Iterable[str], count: int) -> None:
        """Starts the servers of all workers of a pool, so that this process owns them, too."""
        self._sandbox.prepare(addresses, map(str, range(count)))
        self._worker_sets = count
        self.publish()

    def serve(self) -> None:
        """Answers later children, which may ask for servers before this process does."""
        from .control import Control

        self._control = Control(self._sandbox, self._sandbox.control_directory.socket)
        os.environ[sources.OWNER] = self._control.path

    def stop(self) -> None:
        """Ends all servers."""
        try:
            if self._control is not None:
                self._control.stop()
        finally:
            self._sandbox.stop()

    def publish(self) -> None:
        """Tells the processes that this one starts what they need to know.

        :raises SandboxError: there is no place for the files of the run.
        """
        os.environ[refusals.VARIABLE] = self._sandbox.control_directory.refusals
        if not self._sandbox.servers:
            return
        for name, value in child_variables(self._sandbox.servers[0]).items():
            os.environ.setdefault(name, value)  # A worker has set its own already.
        os.environ[ADDRESSES] = json.dumps(self._sandbox.resolved)
        logs = {server.address: server._log_path() for server in self._sandbox.servers}
        os.environ[sources.LOGS] = json.dumps(logs)


def local_source(run: run.Run | None) -> LocalSource | None:
    """Returns the source of a run that this process owns; None for any other run."""
    source = None if run is None else run.source
    return source if isinstance(source, LocalSource) else None


def is_in_a_run() -> bool:
    """Returns whether this process is in a run that `sandbox_run` would join."""
    under_exec = "MEMCACHED_SANDBOX_CONTROL" in os.environ
    return under_exec or local_source(run.current_run_or_none()) is not None


@contextmanager
def sandbox_run(
    *,
    exclude: Collection[str] = (),
    flush: str | None = None,
    guard: Collection[str] | None = (),
    exclude_option: str = "exclude=[{alias!r}]",
    distributes: bool = False,
    inspector: Inspector | None = None,
    **options: Unpack[MemcachedOptions],
) -> Iterator[run.Run]:
    """Puts this process into a run while the context lasts.

    It joins the run that it is in already, or owns a new one, whose servers are started when they
    are asked for. Django is repointed, now or when it is configured.

    :param exclude: memcached aliases to leave alone.
    :param flush: when to empty the caches, as `Run.flushed_after` has it. None for the setting of
        the run that is joined, or ``"test"``.
    :param guard: further addresses not to connect to; None for no guard at all.
    :param exclude_option: how the user excludes ``{alias}``, for errors of a run that is owned.
    :param distributes: whether workers with runs of their own have the tests. This process has no
        server then, until its CACHES are read.
    :param inspector: follows the logs of its own servers.
    :param options: those of `sandbox.Memcached`, for servers of its own.
    :raises SandboxError: an option is wrong, or a server cannot be started.
    """
    depth = flushing.replace_depth(0)
    try:
        with (
            _joined(exclude, flush, options.get("crawl", False), guard)
            if is_in_a_run()
            else _owned(
                *(exclude, flush or "test", guard, exclude_option, distributes),
                *(inspector, options),
            )
        ) as entered:
            yield entered
    finally:
        flushing.replace_depth(depth)


@contextmanager
def _joined(
    exclude: Collection[str], flush: str | None, crawl: bool, guarded: Collection[str] | None
) -> Iterator[run.Run]:
    joined = run.current_run()
    was_excluded, was_flushed_after = joined.excluded, joined.flushed_after
    crawled = joined.crawls
    was_guarded, were_installed = guard.guarded(), hooks.installed()
    try:
        joined.excluded = {*joined.excluded, *exclude}
        joined.flushed_after = flush or joined.flushed_after
        joined.crawls = crawl or crawled
        for address in guarded or ():
            guard.guard(address)
        hooks.install()
        with _told_of_refusals(joined):
            yield joined
    finally:
        if not were_installed:
            hooks.uninstall()
        joined.excluded, joined.flushed_after = was_excluded, was_flushed_after
        joined.crawls = crawled
        guard.restore(was_guarded)


@contextmanager
def _told_of_refusals(joined: run.Run) -> Iterator[None]:
    """Collects refused connections from child processes."""
    tests_were_in = joined.tests_in
    with restored_environ(os.environ, [refusals.VARIABLE]):
        if joined.tests_in != os.getpid():
            joined.tests_in = os.getpid()
            folder = os.path.dirname(os.environ["MEMCACHED_SANDBOX_CONTROL"])
            os.environ[refusals.VARIABLE] = os.path.join(folder, f"refusals-{joined.tests_in}")
        try:
            yield
        finally:
            joined.tests_in = tests_were_in


@contextmanager
def _owned(
    exclude: Collection[str],
    flush: str,
    guarded: Collection[str] | None,
    exclude_option: str,
    distributes: bool,
    inspector: Inspector | None,
    options: MemcachedOptions,
) -> Iterator[run.Run]:
    # To say now what is wrong, and not when the first server is asked for.
    check(options)
    find_memcached(options.get("binary"))
    guarded = [] if guarded is None else [hooks.MAIN_MEMCACHED, *guarded]
    children_flush = "test" if flush == "test" else "never"  # they know no more
    crawl = options.get("crawl", False)
    marks = inspector is not None
    with injection(os.environ, Injection(exclude, children_flush, crawl, guarded, marks=marks)):
        source = LocalSource(options, inspector)
        source.publish()
        own = run.Run(source)
        own.flushed_after, own.crawls = flush, crawl
        own.exclude_option = exclude_option
        own.defers = distributes
        own.tests_in = os.getpid()
        outer = run.replace_run(own)
        try:
            # This process may be one that another run has had hooks put into.
            hooks.uninstall()
            hooks.install()
            if distributes:
                source.serve()
            yield own
        finally:
            hooks.uninstall()
            own.disconnect()
            run.replace_run(outer)
            source.stop()
