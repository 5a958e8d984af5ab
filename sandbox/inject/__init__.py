"""Loads the modules that run inside the processes of a run, as attributes of this one.

``sandbox exec`` puts this folder on the PYTHONPATH of its command: ``sitecustomize`` and one
package. They need the standard library only, and Python 3.8 or newer: the command's Python may be
another one, without this package, and with a ``sandbox`` of its own. A process has each module
once, wherever it was loaded from first.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

TYPE_CHECKING = False

if TYPE_CHECKING:
    from _memcached_sandbox import address as address
    from _memcached_sandbox import backends as backends
    from _memcached_sandbox import children as children
    from _memcached_sandbox import clients as clients
    from _memcached_sandbox import emptying as emptying
    from _memcached_sandbox import errors as errors
    from _memcached_sandbox import flushing as flushing
    from _memcached_sandbox import guard as guard
    from _memcached_sandbox import hooks as hooks
    from _memcached_sandbox import locations as locations
    from _memcached_sandbox import patches as patches
    from _memcached_sandbox import protocol as protocol
    from _memcached_sandbox import pytest_plugin as pytest_plugin
    from _memcached_sandbox import refusals as refusals
    from _memcached_sandbox import rest as rest
    from _memcached_sandbox import run as run
    from _memcached_sandbox import sources as sources
    from _memcached_sandbox import workers as workers

FOLDER = os.path.dirname(os.path.abspath(__file__))

if "_memcached_sandbox" not in sys.modules:
    sys.path.insert(0, FOLDER)
    try:
        import_module("_memcached_sandbox")
    finally:
        sys.path.remove(FOLDER)


def __getattr__(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"_memcached_sandbox.{name}")
