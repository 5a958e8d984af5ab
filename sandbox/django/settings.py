"""Computes a repointed CACHES, for `sandboxed` and `sandboxed_caches` alike.

Django itself is imported for its error only: settings are being made when this runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import CachesError
from ..inject import locations, run

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.options import MemcachedOptions

# Servers that settings have started live as long as the settings: until this process ends.
_sandboxes: list[Sandbox] = []


def aliases_of(
    caches: Mapping[str, Any],
    exclude: Collection[str],
    is_memcached: Callable[[Mapping[str, Any]], bool] = locations.is_memcached,
) -> list[str]:
    """Returns the memcached aliases.

    :raises django.core.exceptions.ImproperlyConfigured: CACHES is malformed, or has an option that
        no sandbox serves.
    """
    try:
        aliases = locations.memcached_aliases(caches, exclude, is_memcached)
        locations.check_options(caches, aliases, "exclude=[{alias!r}]")
        return aliases
    except CachesError as error:
        from django.core.exceptions import ImproperlyConfigured

        raise ImproperlyConfigured(str(error)) from None


def at_servers_of_run(caches: Mapping[str, Any], exclude: Collection[str]) -> dict[str, Any]:
    """Returns a copy at the servers of the ``sandbox exec`` around this process."""
    run.current_run().excluded.update(exclude)
    return at_sandbox(caches, aliases_of(caches, exclude), run.current_run())


def at_sandbox(
    caches: Mapping[str, Any], aliases: Collection[str], sandbox: Sandbox | run.Run
) -> dict[str, Any]:
    """Returns a copy in which each alias is at sandbox addresses; missing servers are started."""
    spelled = {alias: caches[alias].get("LOCATION", "") for alias in aliases}
    resolved = sandbox.resolve(
        [address for location in spelled.values() for address in locations.addresses(location)]
    )
    return {
        **caches,
        **{
            alias: {**caches[alias], "LOCATION": locations.repointed(location, resolved)}
            for alias, location in spelled.items()
        },
    }


def at_own_servers(
    caches: Mapping[str, Any], exclude: Collection[str], options: MemcachedOptions
) -> dict[str, Any]:
    """Returns a copy at servers that live as long as this process."""
    from ..run.sandbox import Sandbox

    sandbox = Sandbox(**options)
    repointed_caches = at_sandbox(caches, aliases_of(caches, exclude), sandbox)
    _sandboxes.append(sandbox)
    return repointed_caches
