"""Changes modules of Django, unittest and clients in C, and sees connects once `_socket` is there.

Each Python process of a run loads this: it imports nothing that the process does not have. Hence
the quoted annotations, which take the place of the module __future__.
"""

import os
import sys

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
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
}


# The module without which no Python process connects to anything.
SOCKETS = "_socket"

# Names the servers after the first one that a command was given by `--servers`, one in a line.
FURTHER = "MEMCACHED_SANDBOX_FURTHER_ADDRESSES"

# Once it is imported: the addresses to guard, and the servers to which clients send at once.
_to_guard: "list[str]" = []
_to_undelay: "list[str]" = []


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


def install() -> None:
    """Changes modules from now on; those that are loaded already are changed at once."""
    if installed():
        return
    # Now: the process may change its environment before it imports the module.
    _to_guard[:] = os.environ.get("MEMCACHED_SANDBOX_GUARDED", "").split()
    _to_undelay[:] = launched()
    sys.meta_path.insert(0, _finder)
    for name in (SOCKETS, *PATCHES):
        if name in sys.modules:
            _change(name, sys.modules[name])


def come_first() -> None:
    """Comes before finders that were put in front meanwhile, as that of pytest, which rewrites."""
    if installed():
        sys.meta_path.remove(_finder)
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Changes everything back, and changes and guards nothing any more."""
    if installed():
        sys.meta_path.remove(_finder)
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
