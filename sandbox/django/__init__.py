"""Ways into the sandbox for a Django project: `sandboxed` in settings, `sandboxed_caches` in tests.

`SandboxRunner`, and its mixin, are for TEST_RUNNER, `CacheOpsMixin` and `outage` for tests.
Importing this module imports neither Django nor the rest of the package, so that `sandboxed` may
stay in the settings of production.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from typing_extensions import Unpack

    from ..server.options import MemcachedOptions
    from .assertions import CacheOpsMixin
    from .caches import sandboxed_caches
    from .outages import outage
    from .runner import SandboxRunner, SandboxRunnerMixin

__all__ = [
    "CacheOpsMixin",
    "SandboxRunner",
    "SandboxRunnerMixin",
    "outage",
    "sandboxed",
    "sandboxed_caches",
]

_HOMES = {
    "CacheOpsMixin": "assertions",
    "SandboxRunner": "runner",
    "SandboxRunnerMixin": "runner",
    "outage": "outages",
    "sandboxed_caches": "caches",
}


def sandboxed(
    caches: Mapping[str, Any],
    *,
    start: bool = False,
    exclude: Collection[str] = (),
    **options: Unpack[MemcachedOptions],
) -> Mapping[str, Any]:
    """Returns CACHES as it is, or with the sandbox's servers if this run has a sandbox.

        CACHES = sandboxed({"default": {"BACKEND": ..., "LOCATION": "127.0.0.1:11211"}})

    Under ``sandbox exec`` the result is a copy in which every memcached alias has the LOCATION of
    its servers in the run, and all else as it was: BACKEND, OPTIONS, KEY_PREFIX, VERSION, TIMEOUT,
    KEY_FUNCTION, and the other aliases. Otherwise ``caches`` itself is returned.

    :param start: without ``sandbox exec``, start servers that live as long as this process. For
        settings that only tests use.
    :param exclude: memcached aliases to leave alone.
    :param options: those of `sandbox.Memcached`, for the servers that are started here.
    :raises django.core.exceptions.ImproperlyConfigured: CACHES is malformed.
    :raises SandboxError: a server cannot be started.
    """
    under_exec = "MEMCACHED_SANDBOX_CONTROL" in os.environ
    if not under_exec and not start:
        return caches
    from .settings import at_own_servers, at_servers_of_run

    if under_exec:
        return at_servers_of_run(caches, exclude)
    return at_own_servers(caches, exclude, options)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
