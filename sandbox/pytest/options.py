"""Reads the options of the pytest plugin, from the command line or else from the ini file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest

from ..errors import OptionError
from ..server.options import check, size
from . import NAME, flag, on_command_line

if TYPE_CHECKING:
    from ..server.options import MemcachedOptions

FLUSHED_AFTER = ("test", "class", "module", "session", "never")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _scope(text: str) -> str:
    if text not in FLUSHED_AFTER:
        raise ValueError(f"{text!r} is none of {', '.join(FLUSHED_AFTER)}")
    return text


def _addresses(texts: Sequence[str]) -> list[str] | None:
    if "off" in texts:
        if len(texts) > 1:
            raise ValueError("'off' is for no guard at all: give either it or addresses")
        return None
    from ..inject import locations

    return [locations.address(text) for text in texts]


# By their names in pytest: the arguments that they are in Python, and how they are read.
Arguments = Mapping[str, tuple[str, Callable[[Any], object]]]

OF_MEMCACHED: Arguments = {
    "memory": ("memory_mb", _whole_number),
    "max_item_size": ("max_item_size", size),
    "threads": ("threads", _whole_number),
    "unix": ("unix_socket", bool),
    "binary": ("binary", str),
}

OF_RUN: Arguments = {
    "exclude": ("exclude", list),
    "flush": ("flush", _scope),
    "guard": ("guard", _addresses),
}


def memcached_options(config: pytest.Config) -> MemcachedOptions:
    """Return the arguments of `Memcached` that were given. Raises pytest.UsageError."""
    options = cast("MemcachedOptions", _read(config, OF_MEMCACHED))
    try:
        check(**options)
    except OptionError as error:
        names = {argument: name for name, (argument, _) in OF_MEMCACHED.items()}
        raise _usage_error(config, names[error.option], error.problem) from None
    return options


def run_options(config: pytest.Config) -> dict[str, Any]:
    """Return the arguments of `enter_run` that were given. Raises pytest.UsageError."""
    return _read(config, OF_RUN)


def _read(config: pytest.Config, arguments: Arguments) -> dict[str, Any]:
    given = {}
    for name, (argument, read) in arguments.items():
        value = on_command_line(config, f"{NAME}_{name}")
        if value is None:
            value = config.getini(f"{NAME}_{name}")
        if value is not None:
            try:
                given[argument] = read(value)
            except ValueError as error:
                raise _usage_error(config, name, str(error)) from None
    return given


def _usage_error(config: pytest.Config, name: str, problem: str) -> pytest.UsageError:
    full_name = f"{NAME}_{name}"
    if on_command_line(config, full_name) is None:
        return pytest.UsageError(f"{full_name} in {config.inipath}: {problem}")
    return pytest.UsageError(f"{flag(full_name)}: {problem}")
