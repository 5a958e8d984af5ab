"""Names keys as the code of a Django project does."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..inject import address as addresses
from ..inject import locations, run

# The KEY_FUNCTION of a cache that has none: "%s:%s:%s" % (key_prefix, version, key).
KEY_FUNCTION = "django.core.cache.backends.base.default_key_func"


def name_of_key(server: str) -> Callable[[str], str]:
    """Returns a function that takes KEY_PREFIX and VERSION from a key of a server.

    It leaves keys alone that no cache of Django's settings has made by Django's own KEY_FUNCTION.

    :param server: the address of the server.
    """
    # The longest first: an empty prefix fits all keys that have a version.
    prefixes = sorted(_prefixes(server), key=len, reverse=True)

    def name(key: str) -> str:
        for prefix in prefixes:
            if key.startswith(prefix):
                version, colon, rest = key[len(prefix) :].partition(":")
                if colon and version:
                    return rest
        return key

    return name


def _prefixes(server: str) -> set[str]:
    """Returns how keys begin, before the version, of each cache that is at a server."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return set()
    current = run.current_run_or_none()
    resolved = {} if current is None else current.resolved
    place = addresses.Address(server).place
    return {
        f"{config.get('KEY_PREFIX', '')}:"
        for config in conf.settings.CACHES.values()
        if _makes_keys_by_default(config.get("KEY_FUNCTION"))
        # A backend that is known only when it connects has its main address here still.
        for location in locations.addresses(
            locations.repointed(config.get("LOCATION", ""), resolved)
        )
        if addresses.Address(location).place == place
    }


def _makes_keys_by_default(function: object) -> bool:
    if callable(function):
        return f"{function.__module__}.{getattr(function, '__qualname__', '')}" == KEY_FUNCTION
    return function is None or function == KEY_FUNCTION
