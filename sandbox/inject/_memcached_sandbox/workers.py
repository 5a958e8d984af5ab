"""Makes a process a worker: what it knows of its parent's servers leads to its own."""

from __future__ import annotations

import _socket
import functools
import os
import sys
from collections.abc import Mapping
from types import FunctionType, ModuleType

from . import backends, guard, locations, refusals
from .errors import ProtocolError, RunError, SandboxError
from .run import current_run

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Clients that a worker has inherited. They are kept referenced: their destructor would send "quit"
# on the parent's connection.
_inherited: list[Any] = []

# How many objects to look at, at most, for the connections of such clients: those of Django's
# backends hold some dozens.
MOST_HELD = 10_000

# Bytes of the longest reason for which a process fails to become a worker.
LONGEST_REASON = 10_000

# The reason if it has ended without telling one.
ENDED = "a worker of the tests ended too early, and the results of its tests are lost"

# Sees whether the pool of the tests that are running has lost a worker.
_lost: _LostWorker | None = None

# Why this process could not become a worker. Nor can it later: it would run tests half moved.
_failures: list[Exception] = []


def _is_child() -> bool:
    """Returns whether multiprocessing has started this process."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def become_worker_in_child() -> None:
    """Makes this process a worker if multiprocessing has started it."""
    if not _is_child():
        return
    if _failures:
        raise _failures[0]
    if current_run().worker_pid != os.getpid():
        name = sys.modules["multiprocessing.process"].current_process().name
        try:
            become_worker(f"{os.getppid()}/{name}")
        except Exception as error:
            _failures.append(error)
            raise


def initialize(function: Callable[[], None]) -> None:
    """Makes this process of a pool a worker, and calls the initializer of the pool.

    A pool replaces a process whose initializer has failed, for ever, until `ending_with_workers`
    sees the end of one. A forked process tells its parent, and waits to be ended with the pool.
    """
    try:
        become_worker_in_child()
        function()
    except SandboxError as error:
        if _lost is not None and _is_child():
            _lost.tell(str(error))
        raise


class _LostWorker:
    """Is true once a pool has replaced a process, or a forked one has failed to become a worker.

    Nobody would run the tests of such a process. A failed one must not send its error as a result:
    the pool is ended as soon as that is read, and hangs if the process that has sent it is killed
    before it lets go of the lock (https://github.com/python/cpython/issues/96995).
    """

    def __init__(self, processes: int) -> None:
        self.reason = ""
        self._most = len(_pool_processes()) + processes
        self._seen = _pool_processes()
        self._told, self._tells = _socket.socketpair()
        self._told.setblocking(False)

    def __bool__(self) -> bool:
        self._seen |= _pool_processes()
        try:
            told = self._told.recv(LONGEST_REASON)
            self.reason = self.reason or told.partition(b"\n")[0].decode(errors="replace")
        except BlockingIOError:
            pass  # None has failed since the last time.
        if not self.reason and len(self._seen) > self._most:
            self.reason = ENDED
        return bool(self.reason)

    def tell(self, reason: str) -> None:
        """Tells the parent of a fork why this fails, and waits until the parent has ended."""
        self._told.close()
        self._tells.sendall(f"{reason}\n".encode()[:LONGEST_REASON])
        self._tells.recv(1)

    def close(self) -> None:
        """Closes the connection to processes that have failed."""
        self._told.close()
        self._tells.close()


def _pool_processes() -> set[str]:
    children = sys.modules["multiprocessing"].active_children()
    return {child.name for child in children if "PoolWorker" in child.name}


def ending_with_workers(run_workers: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a parallel run once a worker has ended, in its start or by a signal: it would hang."""

    @functools.wraps(run_workers)
    def run(suite: Any, result: Any) -> Any:
        if result.shouldStop:
            return run_workers(suite, result)
        global _lost  # noqa: PLW0603
        # Django looks at it ten times a second.
        _lost = lost = result.shouldStop = _LostWorker(suite.processes)
        try:
            run_workers(suite, result)
        finally:
            is_lost = result.shouldStop is lost and bool(lost)
            if result.shouldStop is lost:
                result.shouldStop = False
            _lost = None
            lost.close()
        if is_lost:
            raise RunError(lost.reason)
        return result

    return run


def become_worker(name: str) -> None:
    """Puts this worker's addresses where those of its parent are, in settings and in backends."""
    moved = current_run().become_worker(name)
    for backend in list(backends.known):
        backend._servers = locations.repointed(backend._servers, moved)
        _inherited.append(backend.__dict__.pop("_cache", None))
    _lead_django_here()
    _report_inherited()


def _lead_django_here() -> None:
    """Puts this worker's addresses into Django's settings and into the backends of `caches`."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return
    settings = conf.settings._wrapped
    while settings is not None:
        # An override that is active lies before those settings that it overrides.
        if "CACHES" in vars(settings):
            settings.CACHES = of_this_worker(settings.CACHES)
        settings = vars(settings).get("default_settings")
    conf.settings.__dict__.pop("CACHES", None)
    cache = sys.modules.get("django.core.cache")
    if cache is None:
        return
    # A handler that has not read CACHES has made no backend.
    caches = cache.caches.__dict__.pop("settings", {})
    cache.caches._settings = None
    known = {*current_run().captured, *current_run().resolved}
    for alias, config in caches.items():
        is_moved = known.intersection(locations.addresses(config.get("LOCATION", "")))
        if is_moved and hasattr(cache.caches._connections, alias):
            _make_again(cache.caches[alias], cache.caches.create_connection(alias))


def _make_again(backend: Any, new: Any) -> None:
    """Makes a backend like a new one, whatever client it had: the project may have kept it."""
    if type(new) is not type(backend):
        return  # The project itself has put it there.
    _inherited.append((vars(backend).copy(), new))
    vars(backend).clear()
    vars(backend).update(vars(new))


def _report_inherited() -> None:
    """Reports each connection to a server of the parent that a client outside of Django has."""
    if guard.open_to_others():
        import gc

        gc.collect()  # What nothing can reach any more is no client.
    connections = guard.open_to_others()
    unused = _held_by(_inherited) if connections else ()
    for connection, address, at in connections:
        if id(connection) not in unused:
            current_run().report_refusal(refusals.Refusal(str(address), "", at, refusals.OPEN))


def _held_by(clients: list[Any]) -> set[int]:
    """Returns the ids of what clients hold, their sockets among it."""
    import gc

    held: set[int] = set()
    found = clients
    while found and len(held) < MOST_HELD:
        found = [
            value
            for value in gc.get_referents(*found)
            if id(value) not in held and not isinstance(value, (type, ModuleType, FunctionType))
        ]
        held.update(map(id, found))
    return held


def of_this_worker(caches: Any) -> Any:
    """Returns CACHES with this worker's addresses in place of those that it has captured."""
    run = current_run()
    moved = {}
    # Django itself has something to say about what is no CACHES.
    for alias, config in caches.items() if isinstance(caches, Mapping) else ():
        location = config.get("LOCATION") if isinstance(config, Mapping) else None
        if captured := run.captured.intersection(locations.addresses(location)):
            own = locations.repointed(location, run.resolve(captured))
            moved[alias] = {**config, "LOCATION": own}
    return {**caches, **moved} if moved else caches


def counting_operations(run_workers: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_workers)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = _operations()
        result = run_workers(*args, **kwargs)
        for address, count in _operations().items():
            used = count - before.get(address, count)
            if used > 0:
                times = "1 operation" if used == 1 else f"{used:,} operations"
                current_run().report_refusal(refusals.Refusal(address, "", times, refusals.USED))
        return result

    return run


def _operations() -> dict[str, int]:
    """Returns how many operations each server of this process has had.

    One that does not answer is left out: the next flush fails, or the owner reports it.
    """
    from .protocol import ANSWER_TIMEOUT, OPERATIONS, Connection, number

    operations = {}
    for address in current_run().servers():
        try:
            with Connection.to(address, ANSWER_TIMEOUT) as connection:
                counters = connection.stats()
            operations[address] = sum(number(counters, name) for name in OPERATIONS)
        except (OSError, ProtocolError):
            pass
    return operations
