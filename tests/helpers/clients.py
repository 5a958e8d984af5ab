"""Clients of memcached, which all do the same by the same names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import bmemcached
import memcache
import pymemcache

try:
    import pylibmc
except ImportError:  # There are no wheels for each version of Python.
    pylibmc = None

# Seconds after which what clients store expires.
EXPIRY = 60

Do = Callable[[str, bytes], Any]


def _common(client: Any) -> dict[str, Do]:
    """Return what most clients do in the same way."""
    return {
        "get": lambda key, _: client.get(key),
        "set": lambda key, value: client.set(key, value, EXPIRY),
        "add": lambda key, value: client.add(key, value, EXPIRY),
        "replace": lambda key, value: client.replace(key, value, EXPIRY),
        "append": client.append,
        "prepend": client.prepend,
        "delete": lambda key, _: client.delete(key),
        "touch": lambda key, _: client.touch(key, EXPIRY),
        "incr": lambda key, _: client.incr(key, 2),
        "decr": lambda key, _: client.decr(key, 1),
        "flush": lambda _, __: client.flush_all(),
    }


def pymemcache_client(address: str, closing: ExitStack) -> dict[str, Do]:
    client = pymemcache.Client(
        address, no_delay=True, default_noreply=False, allow_unicode_keys=True
    )
    closing.callback(client.close)
    cas = {"cas": lambda key, value: client.cas(key, value, b"1", EXPIRY)}
    return _common(client) | cas


def pylibmc_client(address: str, closing: ExitStack, binary: bool) -> dict[str, Do]:
    client = pylibmc.Client([address], binary=binary)
    closing.callback(client.disconnect_all)

    def unless_missing(do: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any) -> None:
            with suppress(pylibmc.NotFound):
                do(*arguments)

        return done

    incr, decr = unless_missing(client.incr), unless_missing(client.decr)
    replace = unless_missing(client.replace)
    does = _common(client) | {
        "replace": lambda key, value: replace(key, value, EXPIRY),
        "incr": lambda key, _: incr(key, 2),
        "decr": lambda key, _: decr(key, 1),
    }
    if binary:  # There it waits for 5 seconds for more than memcached answers.
        del does["touch"]
    return does


def python_memcached_client(address: str, closing: ExitStack) -> dict[str, Do]:
    client = memcache.Client([address])
    closing.callback(client.disconnect_all)
    return _common(client)


def bmemcached_client(address: str, closing: ExitStack) -> dict[str, Do]:
    client = bmemcached.Client([address])
    closing.callback(client.disconnect_all)
    return {
        "get": lambda key, _: client.get(key),
        "set": lambda key, value: client.set(key, value.decode(), EXPIRY),
        # Quiet commands, after which it asks for the version.
        "set, quietly": lambda key, value: client.set_multi({key: value.decode()}, EXPIRY),
        "add": lambda key, value: client.add(key, value.decode(), EXPIRY),
        "replace": lambda key, value: client.replace(key, value.decode(), EXPIRY),
        "delete": lambda key, _: client.delete(key),
        "incr": lambda key, _: client.incr(key, 2),
        "decr": lambda key, _: client.decr(key, 1),
        "flush": lambda _, __: client.flush_all(),
    }


def all_clients(address: str, closing: ExitStack) -> dict[str, dict[str, Do]]:
    """Return what each client does, by its name."""
    made = {
        "pymemcache": pymemcache_client(address, closing),
        "python-memcached": python_memcached_client(address, closing),
        "bmemcached, binary": bmemcached_client(address, closing),
    }
    if pylibmc is not None:
        made["pylibmc"] = pylibmc_client(address, closing, binary=False)
        made["pylibmc, binary"] = pylibmc_client(address, closing, binary=True)
    return made
