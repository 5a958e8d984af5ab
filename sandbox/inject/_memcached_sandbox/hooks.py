"""Changes modules of Django, unittest and clients in C, and watches connects and new processes.

Each Python process of a run loads this: it imports nothing that the process does not have. Hence
the quoted annotations, which take the place of the module __future__.
"""

import os
import sys

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# The modules to change, and the function of `patches` that is called with each.
PATCHES = {
    "django.conf": "django_conf",
    "django.core.cache.backends.memcached": "memcached_backend",
    "django.test.runner": "django_runner",
    "unittest.case": "unittest_case",
    "unittest.suite": "unittest_suite",
    "django.test.testcases": "django_testcases",
    "hypothesis.extra.django._impl": "hypothesis_django",
    "pylibmc.client": "pylibmc_client",
    "libmc": "libmc",
    "tox.tox_env.api": "tox_env",
}


# The module without which no Python process connects to anything.
SOCKETS = "_socket"

# Always guarded: memcached's own port on this machine.
MAIN_MEMCACHED = "127.0.0.1:11211"

# Names the servers after the first one that a command was given by `--servers`, one in a line.
FURTHER = "MEMCACHED_SANDBOX_FURTHER_ADDRESSES"

# What the guard of the kernel leads to sandbox servers, if it does: "workers" alone, which may know
# the servers of other processes, or "all" that connect to main memcacheds, too.
LEADS = "MEMCACHED_SANDBOX_RUN_LEADS"

# Whether processes mark in the logs of servers which tests they run.
MARKS = "MEMCACHED_SANDBOX_RUN_MARKS"

# Once it is imported: the addresses to guard, and the servers to which clients send at once.
_to_guard: "list[str]" = []
_to_undelay: "list[str]" = []

# The functions that see audit events: https://docs.python.org/3/library/audit_events.html.
_watching: "dict[str, Callable[[str, tuple[Any, ...]], None]]" = {}
_audits = False

# The events of new programs. os.spawn*() and os.popen() lead to these.
STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system")

# Variables that each Python process of a run has, beside PYTHONPATH.
SETTINGS = (
    "MEMCACHED_SANDBOX_GUARDED",
    "MEMCACHED_SANDBOX_RUN_CRAWL",
    "MEMCACHED_SANDBOX_RUN_EXCLUDE",
    "MEMCACHED_SANDBOX_RUN_FLUSH",
    LEADS,
    MARKS,
)

# Those of them that this process lacks, though its PYTHONPATH has led here.
lost: "list[str]" = []


class PatchingFinder:
    """Lets the other finders find a module, and changes it when it is loaded."""

    def find_spec(
        self, name: str, path: "Any" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name not in PATCHES and name != SOCKETS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = PatchingLoader(spec.loader)
                return spec
        return None


class PatchingLoader:
    """Changes a module after its loader has loaded it. All else is left to the loader."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)

    def create_module(self, spec: "ModuleSpec") -> "Any":
        return self._loader.create_module(spec)

    def exec_module(self, module: "Any") -> None:
        # The module must not see that it is being changed.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _change(module.__name__, module)


_finder = PatchingFinder()


def launched() -> "list[str]":
    """Returns the addresses of the servers that the environment names, the first one first."""
    addresses = [os.environ.get("MEMCACHED_SANDBOX_ADDRESS", "")]
    return [*filter(None, addresses + os.environ.get(FURTHER, "").split("\n"))]


def installed() -> bool:
    """Returns whether this process changes modules."""
    return _finder in sys.meta_path


def install(guarded: str = "") -> None:
    """Changes modules from now on; those that are loaded already are changed at once.

    :param guarded: what to guard if the environment does not say it.
    """
    if installed():
        return
    for event in STARTS:
        watch(event, _see_start)
    # Now: the process may change its environment before it imports the module.
    _to_guard[:] = os.environ.get("MEMCACHED_SANDBOX_GUARDED", guarded).split()
    _to_undelay[:] = launched()
    sys.meta_path.insert(0, _finder)
    for name in (SOCKETS, *PATCHES):
        if name in sys.modules:
            _change(name, sys.modules[name])


def install_in_child() -> None:
    """Does the same in a process that PYTHONPATH has led here, also one that lacks the rest."""
    known = [*SETTINGS]
    if "MEMCACHED_SANDBOX_OUTER_RUN" in os.environ:
        # It is a process of `sandbox exec`, or of a shell with a sandbox.
        known += ["MEMCACHED_SANDBOX_CONTROL", "MEMCACHED_SANDBOX_WORKER"]
    lost[:] = [name for name in known if name not in os.environ]
    install(guarded=MAIN_MEMCACHED)


def watch(event: str, function: "Callable[[str, tuple[Any, ...]], None]") -> None:
    """Has a function called with each audit event of a kind, before what it tells of happens."""
    global _audits  # noqa: PLW0603
    _watching[event] = function
    if not _audits:
        sys.addaudithook(_audit)  # There is no way to remove one.
        _audits = True


def _audit(event: str, arguments: "tuple[Any, ...]") -> None:
    function = _watching.get(event)
    if function is not None:
        function(event, arguments)


def _see_start(event: str, arguments: "tuple[Any, ...]") -> None:
    try:
        from . import children

        children.see_start(event, arguments)
    except Exception:  # noqa: BLE001 - it only tells, and must not fail the program's own call
        pass


def come_first() -> None:
    """Comes before finders that were put in front meanwhile, as that of pytest, which rewrites."""
    if installed():
        sys.meta_path.remove(_finder)
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Changes everything back, and changes and guards nothing any more."""
    if installed():
        sys.meta_path.remove(_finder)
    for event in STARTS:
        _watching.pop(event, None)
    loaded = vars(sys.modules[__package__])
    if "patches" in loaded:
        loaded["patches"].undo()
    if "guard" in loaded:
        loaded["guard"].restore({})
        loaded["guard"].capture(())


def _change(name: str, module: "ModuleType") -> None:
    if name in PATCHES:
        from . import patches

        getattr(patches, PATCHES[name])(module)
    elif _to_guard or _to_undelay:
        from . import guard

        for address in _to_guard:
            guard.guard(address)
        guard.undelay(_to_undelay)
        _to_guard.clear()
        _to_undelay.clear()
