"""Finds the servers behind the aliases of CACHES."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RunError, printable
from ..inject import locations, run
from ..server.memcached import server_at, servers_of_process

if TYPE_CHECKING:
    from ..server import Server

# What gives tests a sandbox, for those that have none.
REMEDY = (
    "run the tests under 'sandbox exec', with 'pytest --memcached-sandbox', or with "
    "TEST_RUNNER = 'sandbox.django.SandboxRunner'"
)


def servers_by_alias(current: run.Run) -> dict[str, list[Server]]:
    """Returns the servers behind each alias of CACHES that is in the sandbox of a run."""
    servers = {}
    for alias, config in _caches().items():  # They are repointed now, at the latest.
        ours = _servers(config, current, current.servers())
        if ours and alias not in current.excluded:
            servers[alias] = ours
    return servers


def servers_of_aliases(aliases: Collection[str], caller: str) -> list[Server]:
    """Returns the servers behind aliases of CACHES or, without Django, those of the run.

    :param caller: what a test has called, for the error.
    :raises RunError: an alias is not in a sandbox.
    """
    current, caches = run.current_run(), _caches()
    if not caches and (of_run := current.servers()):
        return [*map(server_at, sorted(of_run))]
    known = current.servers() | servers_of_process().keys()
    servers: dict[str, Server] = {}
    for alias in aliases:
        problem = ""
        if alias not in caches:
            known_aliases = ", ".join(map(repr, caches)) or "none"
            problem = f"there is no CACHES[{alias!r}]; the aliases are {known_aliases}"
        elif alias in current.excluded:
            problem = f"CACHES[{alias!r}] is excluded from the sandbox"
        elif not (ours := _servers(caches[alias], current, known)):
            backend, location = (caches[alias].get(key) for key in ("BACKEND", "LOCATION"))
            problem = (
                f"CACHES[{alias!r}] is {backend} at {location!r}, no server of a sandbox: {REMEDY}"
            )
        if problem:
            raise RunError(printable(f"{caller}: {problem}"))
        servers |= {server.address: server for server in ours}
    return [*servers.values()]


def _caches() -> Mapping[str, Any]:
    """Returns CACHES; nothing if this process has no settings of Django."""
    if "django.conf" not in sys.modules and "DJANGO_SETTINGS_MODULE" not in os.environ:
        return {}
    from django.conf import ENVIRONMENT_VARIABLE, settings

    if not settings.configured and ENVIRONMENT_VARIABLE not in os.environ:
        return {}
    caches: Mapping[str, Any] = settings.CACHES
    return caches


def _servers(config: Mapping[str, Any], current: run.Run, known: Collection[str]) -> list[Server]:
    """Returns the servers of an alias whose addresses are known."""
    # A backend that is known only when it connects has its main addresses here still.
    addresses = [
        current.resolved.get(address, address)
        for address in locations.addresses(config.get("LOCATION", ""))
    ]
    return [server_at(address) for address in addresses if address in known]
