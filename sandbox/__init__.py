"""Gives each test run a real, short-lived memcached.

Nothing is loaded before it is used: `sandboxed` in a settings module costs production nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from .errors import (
        BinaryError,
        MainMemcachedRefused,
        OptionError,
        RunError,
        SandboxError,
        ServerError,
        StartError,
    )
    from .inspection.findings import MemcachedFinding
    from .run.sandbox import Sandbox
    from .server import Server
    from .server.counts import Counts
    from .server.memcached import Memcached
    from .server.operations import Operation
    from .server.trace import Operations

__all__ = [
    "BinaryError",
    "Counts",
    "MainMemcachedRefused",
    "Memcached",
    "MemcachedFinding",
    "Operation",
    "Operations",
    "OptionError",
    "RunError",
    "Sandbox",
    "SandboxError",
    "Server",
    "ServerError",
    "StartError",
]

__version__ = "0.1.0"

_HOMES = {
    "Counts": "server.counts",
    "Memcached": "server.memcached",
    "MemcachedFinding": "inspection.findings",
    "Operation": "server.operations",
    "Operations": "server.trace",
    "Sandbox": "run.sandbox",
    "Server": "server",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
