"""Finds the memcached addresses in a CACHES setting and puts others in their place.

Functions over the setting alone: nothing of Django and nothing of the project is imported, since
at the time when settings are made neither may be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping

from .address import Address, is_complete
from .errors import CachesError

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Config = Mapping[str, Any]

# BaseMemcachedCache.__init__ in django/core/cache/backends/memcached.py splits at these.
SEPARATORS = re.compile(r"([;,])")

# What the BACKEND paths of memcached backends have in common: Django's own, django-pylibmc,
# django-bmemcached, django-elasticache, django-pymemcache, and those of projects that say so.
# LocMemCache is none.
MEMCACHED_PATH = re.compile(r"(?<!loc)memcache|pylibmc", re.IGNORECASE)

# BACKEND paths that are known to be something else, whatever their LOCATION looks like.
OTHER_PATH = re.compile(
    r"^django\.core\.cache\.|redis|valkey|mongo|dynamo|disk|file|locmem|dummy|database",
    re.IGNORECASE,
)

# Collections that are no list of servers.
NO_LISTS = (str, bytes, bytearray, Mapping)

# What a sandbox cannot do, by the options of an alias that ask for it: those of pymemcache,
# pylibmc and bmemcached. django-bmemcached also takes them beside OPTIONS, in capitals.
UNSERVED = {"tls_context": "TLS", "username": "authentication", "password": "authentication"}


def is_memcached(config: Config) -> bool:
    """Returns whether an alias is a memcached one, as far as its setting tells.

    Either its BACKEND says so, or its BACKEND is unknown and its LOCATION looks like it.
    """
    if MEMCACHED_PATH.search(config["BACKEND"]):
        return True
    if OTHER_PATH.search(config["BACKEND"]):
        return False
    spelled = _spelled(config.get("LOCATION"))
    return bool(spelled) and all(
        isinstance(address, str) and is_complete(address.strip()) for address in spelled
    )


def is_unclear(config: Config) -> bool:
    """Returns whether only the class itself could tell if an alias is a memcached one."""
    return not (is_memcached(config) or OTHER_PATH.search(config["BACKEND"]))


def memcached_aliases(
    caches: Mapping[str, Config],
    exclude: Iterable[str] = (),
    is_memcached: Callable[[Config], bool] = is_memcached,
) -> list[str]:
    """Returns the memcached aliases of a CACHES setting that are not excluded.

    :raises CachesError: the setting is malformed, or has no alias that ``exclude`` names.
    """
    if not isinstance(caches, Mapping):
        raise CachesError(f"CACHES must be a dict of aliases, but is {caches!r}")
    for alias, config in caches.items():
        if not isinstance(config, Mapping):
            raise CachesError(f"CACHES[{alias!r}] must be a dict, but is {config!r}")
        backend = config.get("BACKEND")
        if not isinstance(backend, str) or not backend:
            raise CachesError(
                f"CACHES[{alias!r}] needs a BACKEND, the path of a class, but has {backend!r}"
            )
    if isinstance(exclude, str) or not isinstance(exclude, Iterable):
        raise CachesError(f"exclude must be a list of aliases, but is {exclude!r}")
    exclude = list(exclude)
    for alias in exclude:
        if alias not in caches:
            known = ", ".join(map(repr, caches)) or "none"
            raise CachesError(f"exclude names the alias {alias!r}, but the aliases are {known}")
    aliases = [a for a, config in caches.items() if a not in exclude and is_memcached(config)]
    for alias in aliases:
        location = caches[alias].get("LOCATION", "")
        if not all(map(_is_address, _spelled(location))):
            raise CachesError(
                f"CACHES[{alias!r}] has the LOCATION {location!r}: it must be an address such as "
                "'127.0.0.1:11211', or a list of them"
            )
    return aliases


def check_options(caches: Mapping[str, Config], aliases: Iterable[str], exclude: str) -> None:
    """Checks that some aliases can be repointed with the options that they have.

    :param exclude: how to exclude an alias, which stands for ``{alias}``.
    :raises CachesError: an alias asks for TLS, or gives a user name or a password.
    """
    for alias in aliases:
        place = f"CACHES[{alias!r}]"
        for name, spelled, where in (
            *((*option, "settings") for option in _options(caches[alias], place)),
            *((*variable, "environment") for variable in _variables(caches[alias], place)),
        ):
            raise CachesError(
                f"{spelled} is set, but a sandbox has no {UNSERVED[name]}: take it out of the "
                f"{where} that tests use, or exclude the alias with {exclude.format(alias=alias)}"
            )


def _options(config: Config, spelled: str) -> Iterator[tuple[str, str]]:
    """Returns the options that no sandbox serves, each with its place in CACHES."""
    for name, value in config.items():
        place = f"{spelled}[{name!r}]"
        if isinstance(value, Mapping):
            yield from _options(value, place)
        elif str(name).lower() in UNSERVED and value:
            yield str(name).lower(), place


def _variables(config: Config, spelled: str) -> Iterator[tuple[str, str]]:
    """Returns the options that django-bmemcached takes from the environment, if CACHES has none."""
    if not config["BACKEND"].startswith("django_bmemcached."):
        return
    for name in ("username", "password"):
        variable = f"MEMCACHE_{name.upper()}"
        given = name.upper() in config or name in (config.get("OPTIONS") or ())
        if os.environ.get(variable) and not given:
            yield name, f"{variable}, with which {spelled} authenticates,"


def addresses(location: object) -> list[str]:
    """Returns the addresses in a LOCATION, in order, as `Address` spells them.

    What cannot be an address is left out. They are plain strings, since settings, pickles and
    execnet get them.
    """
    return [str(_address(address)) for address in _spelled(location) if _is_address(address)]


def repointed(location: Any, resolved: Mapping[str, str]) -> object:
    """Returns a LOCATION of the same form, with sandbox addresses in place of main ones.

    An address that was not resolved stays. A collection that is no tuple becomes a list.
    """
    if isinstance(location, str):
        parts = SEPARATORS.split(location)
        parts[::2] = [str(_replaced(address, resolved)) for address in parts[::2]]
        return "".join(parts)
    if not _is_list(location):
        return location
    moved = [_replaced(address, resolved) for address in location]
    return tuple(moved) if isinstance(location, tuple) else moved


def _spelled(location: Any) -> list[Any]:
    """Returns what stands in a LOCATION."""
    if isinstance(location, str):
        return SEPARATORS.split(location)[::2]
    return list(location) if _is_list(location) else [location]


def _is_list(location: object) -> bool:
    """Returns whether it is a list of servers to Django: any collection, such as a set."""
    return isinstance(location, Collection) and not isinstance(location, NO_LISTS)


def _is_address(address: object) -> bool:
    return isinstance(address, str) or _is_pair(address)


def _is_pair(address: object) -> bool:
    """Returns whether it is pymemcache's other form of an address: ("127.0.0.1", 11211)."""
    return isinstance(address, (list, tuple)) and list(map(type, address)) == [str, int]


def _address(spelled: Any) -> Address:
    return Address.at(*spelled) if _is_pair(spelled) else Address(spelled)


def _replaced(address: Any, resolved: Mapping[str, str]) -> Any:
    sandbox_address = resolved.get(_address(address)) if _is_address(address) else None
    if sandbox_address is None:
        return address
    # libmemcached takes a bare path only: such a LOCATION may be meant for it.
    bare = isinstance(address, str) and address.strip().startswith("/")
    return (bare and Address(sandbox_address).path) or sandbox_address
