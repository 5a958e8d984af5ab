"""Changes Django, unittest, tox and clients in C: one function for each module in `hooks.PATCHES`.

What is changed for a part of this process's life only, `undo` changes back.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping

from . import backends, guard, hooks, locations, workers
from .address import Address
from .errors import CachesError, RunError
from .flushing import asks_to_keep, end_class, flushed_after_test
from .refusals import EXCLUDED, OTHER, Refusal
from .run import current_run

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

# The attribute of settings that holds the function which makes their CACHES.
DEFERRED = "_memcached_sandbox_caches"

# What undoes the changes, in the order of these.
_undoing: list[Callable[[], object]] = []

# The initializers of Django's pools of workers, which stay.
_initializers: list[Callable[..., object]] = []


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
        if name == "CACHES":
            _check_override(value)
            value = workers.of_this_worker(value)
        override(self, name, value)

    deferred = functools.cached_property(_deferred_caches)
    deferred.__set_name__(module.Settings, "CACHES")
    for owner in (module.Settings, module.UserSettingsHolder):
        _replace(owner, "CACHES", deferred)
    _replace(module.Settings, "__init__", __init__)
    _replace(module.LazySettings, "configure", configured)
    _replace(module.UserSettingsHolder, "__setattr__", __setattr__)
    if module.settings.configured:
        _repoint(module.settings._wrapped)
        _announce_caches(entered=True)


def _replace(owner: Any, name: str, new: object) -> None:
    if name in vars(owner):
        undo = functools.partial(setattr, owner, name, vars(owner)[name])
    else:
        undo = functools.partial(delattr, owner, name)
    setattr(owner, name, new)
    _undoing.append(undo)


def undo() -> None:
    """Changes everything back, the last change first, and settings and backends with it."""
    mains = {server: main for main, server in current_run().resolved.items()}
    for backend in list(backends.known):
        backend._servers = locations.repointed(backend._servers, mains)
        backends.disconnect(backend)
    while _undoing:
        _undoing.pop()()


def _repoint(settings: Any) -> None:
    run = current_run()
    caches = settings.CACHES
    if not isinstance(caches, Mapping):
        return  # Django makes no cache of it, and says so.
    excluded = run.excluded.intersection(caches)
    moved = locations.memcached_aliases(caches, excluded)
    if (moved or excluded) and excluded != run.excluded:
        raise RunError(
            f"the aliases to exclude name {', '.join(map(repr, run.excluded.difference(caches)))}, "
            f"but the aliases in CACHES are {', '.join(map(repr, caches))}"
        )
    spelled = {alias: config.get("LOCATION", "") for alias, config in caches.items()}
    for alias, config in caches.items():
        if alias not in run.excluded and locations.is_unclear(config):
            run.unclear.update(locations.addresses(spelled[alias]))
    _report_others(caches, moved)
    locations.check_options(caches, moved, run.exclude_option)
    addresses = [address for alias in moved for address in locations.addresses(spelled[alias])]
    running = len(hooks.launched())
    if run.defers and len(set(addresses)) > running and hasattr(type(settings), "CACHES"):
        run.resolve(addresses[:running])
        vars(settings)[DEFERRED] = functools.partial(_repointed, caches, moved)
        del vars(settings)["CACHES"]
        mains = set(addresses).difference(run.servers())
        for address in mains if run.guards else ():
            guard.guard(address)
        run.defer(mains.difference(run.resolved))
    else:
        settings.CACHES = _repointed(caches, moved)
    _undoing.append(functools.partial(_put_back, settings, caches))


def _deferred_caches(settings: Any) -> Any:
    """Returns the CACHES of settings that were made without them.

    :raises AttributeError: they are not these settings' own, but those that these override.
    """
    if DEFERRED not in vars(settings):
        raise AttributeError("CACHES")
    return vars(settings)[DEFERRED]()


def _repointed(caches: Mapping[str, Any], moved: Iterable[str]) -> dict[str, Any]:
    """Returns CACHES with servers of the run, which are started if they are missing."""
    spelled = {alias: caches[alias].get("LOCATION", "") for alias in moved}
    wanted = {alias: locations.addresses(location) for alias, location in spelled.items()}
    resolved = current_run().resolve([address for each in wanted.values() for address in each])
    for alias, addresses in wanted.items():
        _guard(addresses, alias)
    return {
        **caches,
        **{
            alias: {**caches[alias], "LOCATION": locations.repointed(location, resolved)}
            for alias, location in spelled.items()
        },
    }


def _report_others(caches: Mapping[str, Any], moved: Collection[str]) -> None:
    """Reports the aliases that the sandbox leaves alone, for the end of the run to tell."""
    run = current_run()
    others = [
        Refusal(address, alias, "", EXCLUDED)
        for alias, config in caches.items()
        if alias in run.excluded and locations.is_memcached(config)
        for address in locations.addresses(config.get("LOCATION", ""))
    ]
    if not moved and not others and not run.unclear:
        others = [
            Refusal(config["BACKEND"].rpartition(".")[2], alias, "", OTHER)
            for alias, config in caches.items()
        ]
    try:
        for other in others:
            run.report_refusal(other)
    except RunError:
        pass  # It was printed. What is left alone works without a sandbox.


def _check_override(caches: Any) -> None:
    """Checks the options of those aliases that are at addresses of the run.

    :raises CachesError: a sandbox does not serve one of them.
    """
    run = current_run()
    try:
        aliases = locations.memcached_aliases(caches)
    except CachesError:
        return  # A test may want to see what Django says of it.
    known = {*run.resolved, *run.servers(), *run.captured, *run.unclear}
    moved = [
        alias
        for alias in aliases
        if alias not in run.excluded
        and known.intersection(locations.addresses(caches[alias].get("LOCATION", "")))
    ]
    locations.check_options(caches, moved, run.exclude_option)


def _put_back(settings: Any, caches: object) -> None:
    vars(settings).pop(DEFERRED, None)
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
        backends.remember(self)

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

    Counts what reaches the servers of its parent nevertheless. Ends a run that has lost a worker.
    """
    suite = module.ParallelTestSuite
    run = workers.ending_with_workers(suite.run)
    _replace(suite, "run", workers.counting_operations(run))
    # A class that has made one of its own calls these, or is caught by the first test.
    initializer = module._init_worker
    if initializer not in _initializers:
        # For good: a pool that has survived its run finds it by its name, or hangs at the exit.
        module._init_worker = _as_initializer(initializer)
        _initializers.append(module._init_worker)
        if vars(suite).get("init_worker") is initializer:
            suite.init_worker = module._init_worker
    function = module._run_subsuite
    _replace(module, "_run_subsuite", _as_worker(function))
    if vars(suite).get("run_subsuite") is function:
        _replace(suite, "run_subsuite", module._run_subsuite)


def _as_initializer(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        initialize = functools.partial(function, *args, **kwargs)
        if hooks.installed():
            workers.initialize(initialize)
        else:
            initialize()

    return wrapper


def _as_worker(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        workers.become_worker_in_child()
        return function(*args, **kwargs)

    return wrapper


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
            with flushed_after_test(keep_cache, self.id()):
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


def pylibmc_client(module: Any) -> None:
    """Refuses guarded addresses to libmemcached, and has it send at once to sandbox servers."""
    init = module.Client.__init__
    unix = module.server_type_map["unix"]

    @functools.wraps(init)
    def __init__(self: Any, servers: Iterable[Any], *args: Any, **kwargs: Any) -> None:
        known = _check(
            Address.at_path(host) if kind == unix else Address.at(host, port)
            for kind, host, port, *_ in module.translate_server_specs(servers)
        )
        init(self, servers, *args, **kwargs)
        if any(known):
            self.set_behaviors({"tcp_nodelay": True})

    _replace(module.Client, "__init__", __init__)


def libmc(module: Any) -> None:
    """Refuses guarded addresses to libmc. It sends at once by itself: src/Connection.cpp."""
    # It is a type of C, which takes no attributes.
    unsafe = type("ClientUnsafe", (module.ClientUnsafe,), {"__module__": module.__name__})
    _replace(module, "ClientUnsafe", unsafe)
    for client in (module.Client, module.ClientPool, unsafe):
        _replace(client, "__new__", staticmethod(_checking(client.__new__)))
        _replace(client, "update_servers", _checking(client.update_servers))


def tox_env(module: Any) -> None:
    """Has each environment pass on what TOX_OVERRIDE says: it may have a pass_env of its own."""
    default = module.ToxEnv._default_pass_env

    @functools.wraps(default)
    def _default_pass_env(self: Any) -> list[str]:
        entries = os.environ.get("TOX_OVERRIDE", "").split(";")
        ours = [entry.partition("+=")[2] for entry in entries if "MEMCACHED_SANDBOX_*" in entry]
        return [*default(self), *(name for names in ours for name in names.split(","))]

    _replace(module.ToxEnv, "_default_pass_env", _default_pass_env)


def _checking(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(self: Any, servers: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        # An alias may follow an address.
        _check(Address(server.partition(" ")[0]) for server in servers if isinstance(server, str))
        return function(self, servers, *args, **kwargs)

    return wrapper


def _check(addresses: Iterable[Address]) -> list[bool]:
    """Refuses guarded addresses, and returns which ones are those of sandbox servers."""
    import _socket  # noqa: F401 - The hooks guard no address before this import.

    return [guard.check(address) for address in addresses]
