"""Knows the cache backends of this process, and gives them new clients."""

from __future__ import annotations

import sys
import threading
import weakref

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from typing import Any

# The backends that were made while hooks were installed, and the thread that made each.
known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

# Whether clients of this process may be connected to a server that has been killed since.
are_stale = False


def remember(backend: Any) -> None:
    """Remembers a backend that this thread makes."""
    known[backend] = threading.get_ident()


def disconnect(backend: Any) -> None:
    """Closes the connections of a backend, which makes another client when it is used."""
    if "_cache" in vars(backend):
        backend.close()
        del backend._cache


def renew() -> None:
    """Gives Django's backends new clients.

    A client in C may take a server for dead for half a minute: libmemcached's retry_timeout and
    dead_timeout.
    """
    global are_stale  # noqa: PLW0603
    are_stale = False
    for backend in _of_django():
        disconnect(backend)
    running = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    for reference in known.keyrefs():  # Other threads may make some meanwhile.
        backend = reference()
        if backend is None:
            continue
        if known.get(backend) in running:
            vars(backend).pop("_cache", None)  # It may be using its client at this moment.
        else:
            disconnect(backend)


def _of_django() -> list[Any]:
    """Returns the backends of `django.core.cache.caches` that this thread has made."""
    cache = sys.modules.get("django.core.cache")
    memcached = sys.modules.get("django.core.cache.backends.memcached")
    if cache is None or memcached is None:
        return []
    made = cache.caches.all(initialized_only=True)
    return [backend for backend in made if isinstance(backend, memcached.BaseMemcachedCache)]
