"""Computes a repointed CACHES, for `sandboxed` and `sandboxed_caches` alike.

Django itself is imported for its error only: settings are being made when this runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..repoint import CachesError, addresses, is_memcached, memcached_aliases, repointed

if TYPE_CHECKING:
    from ..options import MemcachedOptions
    from ..sandbox import Sandbox

# Servers that settings have started live as long as the settings: until this process ends.
_sandboxes: list[Sandbox] = []


def aliases_of(
    caches: Mapping[str, Any],
    exclude: Collection[str],
    is_memcached: Callable[[Mapping[str, Any]], bool] = is_memcached,
) -> list[str]:
    """Return the memcached aliases. Raises ImproperlyConfigured for a malformed CACHES."""
    try:
        return memcached_aliases(caches, exclude, is_memcached)
    except CachesError as error:
        from django.core.exceptions import ImproperlyConfigured

        raise ImproperlyConfigured(str(error)) from None


def at_one_server(
    caches: Mapping[str, Any], exclude: Collection[str], address: str
) -> dict[str, Any]:
    """Return a copy in which each memcached alias is at this one address."""
    moved = aliases_of(caches, exclude)
    return {
        **caches,
        **{alias: {**caches[alias], "LOCATION": address} for alias in moved},
    }


def at_stand_ins(
    caches: Mapping[str, Any], aliases: Collection[str], sandbox: Sandbox
) -> dict[str, Any]:
    """Return a copy in which each of the aliases is at its stand-ins, started for it."""
    locations = {alias: caches[alias].get("LOCATION", "") for alias in aliases}
    stand_ins = sandbox.stand_in(
        address for location in locations.values() for address in addresses(location)
    )
    return {
        **caches,
        **{
            alias: {**caches[alias], "LOCATION": repointed(location, stand_ins)}
            for alias, location in locations.items()
        },
    }


def at_own_servers(
    caches: Mapping[str, Any], exclude: Collection[str], options: MemcachedOptions
) -> dict[str, Any]:
    """Return a copy at stand-ins that live as long as this process."""
    from ..sandbox import Sandbox

    sandbox = Sandbox(**options)
    repointed_caches = at_stand_ins(caches, aliases_of(caches, exclude), sandbox)
    _sandboxes.append(sandbox)
    return repointed_caches
