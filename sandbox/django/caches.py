"""Gives a configured Django caches of its own, and the old ones back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured
from django.test.utils import override_settings
from django.utils.module_loading import import_string

from ..inject import locations
from ..run.sandbox import Sandbox
from .settings import aliases_of, at_sandbox

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..server.options import MemcachedOptions


@contextmanager
def sandboxed_caches(
    *, exclude: Collection[str] = (), **options: Unpack[MemcachedOptions]
) -> Iterator[Sandbox]:
    """Gives a configured Django caches of its own while the context lasts: for a conftest.

        @pytest.fixture(autouse=True, scope="session")
        def memcached():
            with sandboxed_caches(memory_mb=32) as box:
                yield box

    `django.core.cache.cache`, ``caches[...]``, sessions and the cache middleware follow, as they
    follow ``override_settings``; a backend object that someone has kept from earlier cannot.
    ``flush()`` of the Sandbox that is yielded empties all of them.

    The settings stay as they are after an error.

    :param exclude: memcached aliases to leave alone.
    :param options: those of `sandbox.Memcached`, for the servers.
    :raises django.core.exceptions.ImproperlyConfigured: CACHES is malformed or has no memcached.
    :raises SandboxError: a server cannot be started.
    """
    aliases = aliases_of(settings.CACHES, exclude, _is_memcached)
    if not aliases:
        found = ", ".join(f"{a!r} is {c['BACKEND']}" for a, c in settings.CACHES.items())
        raise ImproperlyConfigured(
            f"CACHES has no memcached alias to give a sandbox: {found or 'it is empty'}"
        )
    with (
        Sandbox(**options) as sandbox,
        # Its signal setting_changed is what everything in Django that keeps caches listens to.
        override_settings(CACHES=at_sandbox(settings.CACHES, aliases, sandbox)),
    ):
        yield sandbox


def _is_memcached(config: Mapping[str, Any]) -> bool:
    """As `is_memcached`, and certain where the class can be had: settings are made by now."""
    try:
        backend = import_string(config["BACKEND"])
    except ImportError:  # Django says so itself when the alias is used.
        return locations.is_memcached(config)
    return locations.is_memcached(config) or (
        isinstance(backend, type) and issubclass(backend, BaseMemcachedCache)
    )
