"""Reads the plugin's options: from the command line, the environment or the ini file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ..errors import OptionError
from ..run.options import read_run, read_wanted
from ..server.options import (
    BY_KEYWORD,
    Given,
    from_environment,
    merged,
    read,
    read_memcached,
    typed,
)
from . import NAME, OPTIONS, flag, in_ini_file, on_command_line, override_of

if TYPE_CHECKING:
    from ..inspection.wanted import Wanted
    from ..server.options import MemcachedOptions

FLUSHES = ("test", "class", "module", "session", "never")


def memcached_options(config: pytest.Config) -> MemcachedOptions:
    """Returns the arguments of `Memcached` that were given.

    :raises pytest.UsageError: one of them is wrong.
    """
    try:
        return read_memcached(_given(config), lambda keyword: f"{NAME}_{BY_KEYWORD[keyword].word}")
    except OptionError as error:
        raise pytest.UsageError(str(error)) from None


def run_options(config: pytest.Config) -> dict[str, Any]:
    """Returns the arguments of `sandbox_run` that were given.

    :raises pytest.UsageError: one of them is wrong.
    """
    try:
        return read_run(_given(config), FLUSHES)
    except OptionError as error:
        raise pytest.UsageError(str(error)) from None


def wanted_of(config: pytest.Config, joins: bool) -> Wanted | None:
    """Returns what the session is to tell of the caches; None for nothing.

    :param joins: the session joins a run, whose owner tells.
    :raises pytest.UsageError: an option is wrong.
    """
    try:
        return read_wanted(_given(config), joins, told_here=["findings"])
    except OptionError as error:
        raise pytest.UsageError(str(error)) from None


def is_set(config: pytest.Config, keyword: str) -> bool:
    """Returns whether a switch is on.

    :raises pytest.UsageError: it is neither on nor off.
    """
    given = _given(config)
    try:
        return bool(read({keyword: given[keyword]})[keyword]) if keyword in given else False
    except OptionError as error:
        raise pytest.UsageError(str(error)) from None


def _given(config: pytest.Config) -> dict[str, Given]:
    in_file, on_line = {}, {}
    for option in BY_KEYWORD.values():
        name = f"{NAME}_{option.word}"
        if option.word not in OPTIONS:
            continue
        if (value := in_ini_file(config, name)) is not None:
            text = " ".join(value) if option.repeatable else value
            spelled = override_of(config, name) or f"{name} = {text} in {config.inipath}"
            in_file[option.keyword] = Given(value, spelled)
        if (value := on_command_line(config, name)) is not None:
            on_line[option.keyword] = typed(option, flag(name), value)
    return merged(in_file, from_environment(BY_KEYWORD.values()), on_line)
