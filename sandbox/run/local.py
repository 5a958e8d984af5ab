"""A run of this very process: a sandbox of its own and Django pointed at it, for a while."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..inject import current, flushing, guard, hooks, refusals, run
from ..server.binary import find_memcached
from ..server.options import check
from .environment import MAIN_MEMCACHED, STAND_INS, Injection, for_children, injected, restored

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..server.memcached import Memcached
    from ..server.options import MemcachedOptions
    from .sandbox import Sandbox


class OwnRun(run.Run):
    """The run of the process that owns the sandbox. Raises what `Sandbox` raises."""

    def __init__(self, options: MemcachedOptions, flush: str) -> None:
        super().__init__()
        self._options = options
        self._sandbox: Sandbox | None = None
        self.flushed_after = flush
        self.tests_in = os.getpid()
        self._worker_sets = 0

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox, made when it is first asked for: a run may never use a cache."""
        if self._sandbox is None:
            from .sandbox import Sandbox

            self._sandbox = Sandbox(**self._options)
        return self._sandbox

    def own_servers(self) -> list[Memcached]:
        """Return the servers that were started, in that order."""
        return [] if self._sandbox is None else self._sandbox.servers

    def stop(self) -> None:
        """End all servers."""
        self.disconnect()
        if self._sandbox is not None:
            self._sandbox.stop()

    def first_server(self) -> Memcached:
        """Return the server that was started first, or start one for whoever asks first."""
        if not self.sandbox.servers:
            (server,) = self.sandbox.launch(1)
            server.wait()
            self._publish()
        return self.sandbox.servers[0]

    def start_worker_sets(self, count: int) -> None:
        """Start the servers of so many workers of a pool, for this process to own them too."""
        self.sandbox.prepare(self.stand_ins, map(str, range(count)))
        self._worker_sets = count
        self._publish()

    def _ask(self, addresses: Iterable[str]) -> dict[str, str]:
        from ..inject import inherited

        worker = inherited.set_of(self.worker, self._worker_sets)
        stand_ins = self.sandbox.stand_in(addresses, worker)
        self._publish()
        return stand_ins

    def _publish(self) -> None:
        """Tell the processes that this one starts."""
        if not self.own_servers():
            return  # A worker of a project without memcached has asked for nothing.
        first, control = self.sandbox.servers[0], self.sandbox.control_directory
        for name, value in for_children(first, control.refusals).items():
            os.environ.setdefault(name, value)  # a worker has said its own already
        os.environ[STAND_INS] = json.dumps(self.sandbox.stand_ins)


def is_in_a_run() -> bool:
    """Whether this process is in a run that `enter_run` would join."""
    return "MEMCACHED_SANDBOX_CONTROL" in os.environ or isinstance(current.known(), OwnRun)


@contextmanager
def enter_run(
    *,
    exclude: Collection[str] = (),
    flush: str | None = None,
    guard: Collection[str] | None = (),
    **options: Unpack[MemcachedOptions],
) -> Iterator[run.Run]:
    """Have this process be in a run while the context lasts, and leave it as it was.

    That is the run it is in already, be it that of ``sandbox exec``, or one of its own, whose
    servers are started when they are asked for. A Django that is configured is pointed at them,
    and so is one that will be.

    exclude: memcached aliases to leave alone.
    flush: after what the caches are emptied: ``"test"`` or what else `Run.flushed_after` knows;
        None for what the run says that is there already, and otherwise for ``"test"``.
    guard: further addresses not to connect to; None for no guard at all.
    options: those of `sandbox.Memcached`, for servers of its own.

    Raises SandboxError and RunError.
    """
    depth = flushing.replace_depth(0)
    try:
        with (
            _joined(exclude, flush, guard)
            if is_in_a_run()
            else _owned(exclude, flush or "test", guard, options)
        ) as entered:
            yield entered
    finally:
        flushing.replace_depth(depth)


@contextmanager
def _joined(
    exclude: Collection[str], flush: str | None, guarded: Collection[str] | None
) -> Iterator[run.Run]:
    joined = current.run()
    was_excluded, was_flushed_after = joined.excluded, joined.flushed_after
    was_guarded, were_installed = guard.guarded(), hooks.installed()
    try:
        joined.excluded = {*joined.excluded, *exclude}
        joined.flushed_after = flush or joined.flushed_after
        for address in guarded or ():
            guard.guard(address)
        hooks.install()
        with _told_of_refusals(joined):
            yield joined
    finally:
        if not were_installed:
            hooks.uninstall()
        joined.excluded, joined.flushed_after = was_excluded, was_flushed_after
        guard.restore(was_guarded)


@contextmanager
def _told_of_refusals(joined: run.Run) -> Iterator[None]:
    """Have the processes that tests start tell this one, too, what they were refused."""
    tests_were_in = joined.tests_in
    with restored(os.environ, [refusals.VARIABLE]):
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
    options: MemcachedOptions,
) -> Iterator[OwnRun]:
    # To say now what is wrong, and not when the first server is asked for.
    check(options)
    find_memcached(options.get("binary"))
    guarded = [] if guarded is None else [MAIN_MEMCACHED, *guarded]
    children_flush = "test" if flush == "test" else "never"  # they know no more
    with injected(os.environ, Injection(exclude, children_flush, guarded)):
        own = OwnRun(options, flush)
        outer = current.replace(own)
        try:
            # This process may be one that another run has had hooks put into.
            hooks.uninstall()
            hooks.install()
            yield own
        finally:
            hooks.uninstall()
            current.replace(outer)
            own.stop()
