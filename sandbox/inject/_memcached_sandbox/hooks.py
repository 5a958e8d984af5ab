"""Waits for the modules that have something to change, and changes them when they are imported.

Nothing is imported earlier than without us, and what is never imported costs nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# The modules to wait for, and the function of `patches` that is called with each.
WAITING = {
    "django.conf": "django_conf",
    "django.core.cache.backends.memcached": "memcached_backend",
    "django.test.runner": "django_runner",
    "unittest.case": "unittest_case",
    "unittest.suite": "unittest_suite",
    "django.test.testcases": "django_testcases",
}


class Waiting:
    """A finder that lets the others find, and has `patches` at what they have loaded."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in WAITING:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = Loader(spec.loader, WAITING[name])
                return spec
        return None


class Loader:
    """A module's loader, and the change to the module after it. All else is the loader's."""

    def __init__(self, loader: Any, patch: str) -> None:
        self._loader = loader
        self._patch = patch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        # The module must not see that it was waited for.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        from . import patches

        getattr(patches, self._patch)(module)


_waiting = Waiting()


def installed() -> bool:
    """Whether this process waits for the modules."""
    return _waiting in sys.meta_path


def install() -> None:
    """Wait for the modules from now on; those that are loaded already are changed at once."""
    if installed():
        return
    addresses = os.environ.get("MEMCACHED_SANDBOX_GUARDED", "").split()
    if addresses:
        from . import guard

        for address in addresses:
            guard.guard(address)
    sys.meta_path.insert(0, _waiting)
    for name, patch in WAITING.items():
        if name in sys.modules:
            from . import patches

            getattr(patches, patch)(sys.modules[name])


def uninstall() -> None:
    """Change everything back, and wait for nothing and guard nothing any more."""
    from . import guard, patches

    if installed():
        sys.meta_path.remove(_waiting)
    patches.undo()
    guard.restore({})
