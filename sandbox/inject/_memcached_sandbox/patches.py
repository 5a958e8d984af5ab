"""Changes Django and unittest: one function for each module in `hooks.PATCHES`.

What is changed for a part of this process's life only, `undo` changes back.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Mapping
from types import FunctionType, ModuleType

from . import guard, locations, refusals
from .errors import CachesError, ProtocolError, RunError
from .flushing import asks_to_keep, end_class, flushed_after_test
from .run import current_run

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# The cache backends of this process, for when it becomes a worker after they were made.
_backends: weakref.WeakSet[Any] = weakref.WeakSet()

# Clients that a worker has inherited. They are kept referenced: their destructor would send "quit"
# on the parent's connection.
_inherited: list[Any] = []

# How many objects to look at, at most, for the connections of such clients: those of Django's
# backends hold some dozens.
MOST_HELD = 10_000

# The counters of memcached that count operations on items, by whatever client.
OPERATIONS = (
    *("cmd_get", "cmd_set", "cmd_touch", "delete_hits", "delete_misses"),
    *("incr_hits", "incr_misses", "decr_hits", "decr_misses"),
)

# What undoes the changes, in the order of these.
_undoing: list[Callable[[], object]] = []


def django_conf(module: Any) -> None:
    """Repoints CACHES as soon as there are settings, before anyone can read them."""
    settings_init = module.Settings.__init__
    configure = module.LazySettings.configure
    override = module.UserSettingsHolder.__setattr__

    @functools.wraps(settings_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        settings_init(self, *args, **kwargs)
        _repoint(self)

    @functools.wraps(configure)
    def configured(self: Any, *args: Any, **kwargs: Any) -> None:
        configure(self, *args, **kwargs)
        _repoint(self._wrapped)

    @functools.wraps(override)
    def __setattr__(self: Any, name: str, value: Any) -> None:
        override(self, name, _of_this_worker(value) if name == "CACHES" else value)

    _replace(module.Settings, "__init__", __init__)
    _replace(module.LazySettings, "configure", configured)
    _replace(module.UserSettingsHolder, "__setattr__", __setattr__)
    if module.settings.configured:
        _repoint(module.settings._wrapped)
        _announce_caches(entered=True)


def _replace(owner: Any, name: str, new: object) -> None:
    old = vars(owner)[name]
    setattr(owner, name, new)
    _undoing.append(functools.partial(setattr, owner, name, old))


def undo() -> None:
    """Changes everything back, the last change first, and settings and backends with it."""
    mains = {server: main for main, server in current_run().resolved.items()}
    for backend in list(_backends):
        backend._servers = locations.repointed(backend._servers, mains)
        if "_cache" in vars(backend):
            backend.close()
            del backend._cache
    while _undoing:
        _undoing.pop()()


def _repoint(settings: Any) -> None:
    run = current_run()
    caches = settings.CACHES
    try:
        aliases = locations.memcached_aliases(caches)
    except CachesError:
        return  # Django has something to say about it, too.
    if aliases and not run.excluded.issubset(caches):
        raise RunError(
            f"the aliases to exclude name {', '.join(map(repr, run.excluded.difference(caches)))}, "
            f"but the aliases in CACHES are {', '.join(map(repr, caches))}"
        )
    spelled = {alias: config.get("LOCATION", "") for alias, config in caches.items()}
    for alias, config in caches.items():
        if alias not in run.excluded and locations.is_unclear(config):
            run.unclear.update(locations.addresses(spelled[alias]))
    moved = [alias for alias in aliases if alias not in run.excluded]
    under_exec = "MEMCACHED_SANDBOX_CONTROL" in os.environ
    option = "--exclude " if under_exec else "MEMCACHED_SANDBOX_EXCLUDE="
    locations.check_options(caches, moved, f"{option}{{alias}}")
    wanted = {alias: locations.addresses(spelled[alias]) for alias in moved}
    resolved = run.resolve([address for alias in moved for address in wanted[alias]])
    for alias in moved:
        _guard(wanted[alias], alias)
    settings.CACHES = {
        **caches,
        **{
            alias: {**caches[alias], "LOCATION": locations.repointed(spelled[alias], resolved)}
            for alias in moved
        },
    }
    _undoing.append(functools.partial(_put_back, settings, caches))


def _put_back(settings: Any, caches: object) -> None:
    settings.CACHES = caches
    _announce_caches(entered=False)


def _announce_caches(entered: bool) -> None:
    """Sends Django's signal setting_changed: caches that were made of CACHES are made again."""
    from django.conf import settings

    settings.__dict__.pop("CACHES", None)
    if "django.core.cache" not in sys.modules:
        return
    from django.core.signals import setting_changed
    from django.test import signals  # noqa: F401 - those who listen

    setting_changed.send(
        sender=type(settings), setting="CACHES", value=settings.CACHES, enter=entered
    )


def _guard(addresses: Iterable[str], alias: str = "") -> None:
    for address in addresses:
        if current_run().guards and current_run().is_main(address):
            guard.guard(address, alias)


def memcached_backend(module: Any) -> None:
    """Repoints what names a main address only when it connects, as override_settings may."""
    init = module.BaseMemcachedCache.__init__

    @functools.wraps(init)
    def __init__(self: Any, server: Any, *args: Any, **kwargs: Any) -> None:
        init(self, _moved(server), *args, **kwargs)
        _backends.add(self)

    _replace(module.BaseMemcachedCache, "__init__", __init__)


def _moved(location: object) -> object:
    run = current_run()
    mains = [
        address
        for address in locations.addresses(location)
        if run.is_main(address) or address in run.unclear or address in run.captured
    ]
    resolved = run.resolve(mains)
    _guard(mains)
    return locations.repointed(location, resolved)


def django_runner(module: Any) -> None:
    """Gives each worker of a parallel run servers of its own, before it does anything else.

    Counts what reaches the servers of its parent nevertheless.
    """
    _replace(module.ParallelTestSuite, "run", _counting(module.ParallelTestSuite.run))
    for name in ("_init_worker", "_run_subsuite"):
        function = getattr(module, name)
        wrapper = _as_worker(function)
        _replace(module, name, wrapper)
        attribute = name[1:]
        # A class that has made one of its own calls these, or is caught by the first test.
        if getattr(module.ParallelTestSuite, attribute, None) is function:
            _replace(module.ParallelTestSuite, attribute, wrapper)


def _counting(run_workers: Callable[..., Any]) -> Callable[..., Any]:
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
    from .protocol import ANSWER_TIMEOUT, Connection, number

    operations = {}
    for address in current_run().servers():
        try:
            with Connection.to(address, ANSWER_TIMEOUT) as connection:
                counters = connection.stats()
            operations[address] = sum(number(counters, name) for name in OPERATIONS)
        except (OSError, ProtocolError):
            pass
    return operations


def _as_worker(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _become_worker_in_child()
        return function(*args, **kwargs)

    return wrapper


def _become_worker_in_child() -> None:
    """Makes this process a worker if multiprocessing has started it."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return
    if current_run().worker_pid != os.getpid():
        become_worker(f"{os.getppid()}/{process.current_process().name}")


def become_worker(name: str) -> None:
    """Puts this worker's addresses where those of its parent are, in settings and in backends."""
    moved = current_run().become_worker(name)
    for backend in list(_backends):
        backend._servers = locations.repointed(backend._servers, moved)
        _inherited.append(backend.__dict__.pop("_cache", None))
    _report_inherited()
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return
    settings = conf.settings._wrapped
    while settings is not None:
        # An override that is active lies before those settings that it overrides.
        if "CACHES" in vars(settings):
            settings.CACHES = _of_this_worker(settings.CACHES)
        settings = vars(settings).get("default_settings")
    conf.settings.__dict__.pop("CACHES", None)
    cache = sys.modules.get("django.core.cache")
    if cache is not None:
        cache.caches.__dict__.pop("settings", None)
        cache.caches._settings = None


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


def _of_this_worker(caches: Any) -> Any:
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


def unittest_case(module: Any) -> None:
    _replace(module.TestCase, "__call__", _flushing(module.TestCase.__call__))


def django_testcases(module: Any) -> None:
    """Flushes after Django's own method, which rolls back the database after unittest's."""
    _replace(module.SimpleTestCase, "__call__", _flushing(module.SimpleTestCase.__call__))


def _flushing(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        keep_cache = _keeps_cache(self)
        clears_caches = not keep_cache and getattr(self, "clears_caches", False)
        if clears_caches:
            self.clears_caches = None  # A Django that clears caches need not do it, too.
        try:
            with flushed_after_test(keep_cache):
                return call(self, *args, **kwargs)
        finally:
            if clears_caches:
                del self.clears_caches

    return __call__


def _keeps_cache(case: Any) -> bool:
    """Returns whether a test case leaves the caches as they are."""
    method = getattr(case, getattr(case, "_testMethodName", ""), None)
    return any(map(asks_to_keep, (case, method))) or current_run().flushed_after != "test"


def hypothesis_django(module: Any) -> None:
    """Flushes after each example, as Hypothesis rolls back the database."""
    teardown_example = module.HypothesisTestCase.teardown_example

    @functools.wraps(teardown_example)
    def flushing(self: Any, example: object) -> None:
        teardown_example(self, example)
        if not _keeps_cache(self):
            current_run().flush()

    _replace(module.HypothesisTestCase, "teardown_example", flushing)


def unittest_suite(module: Any) -> None:
    """Makes a child process that runs tests a worker, even if Django has not started it.

    Also ends `keep_cache` with its class.
    """
    _replace(module.TestSuite, "run", _as_worker(module.TestSuite.run))
    tear_down = module.TestSuite._tearDownPreviousClass

    @functools.wraps(tear_down)
    def wrapper(self: Any, test: object, result: Any) -> None:
        tear_down(self, test, result)
        if test.__class__ != getattr(result, "_previousTestClass", None):
            end_class()

    _replace(module.TestSuite, "_tearDownPreviousClass", wrapper)
