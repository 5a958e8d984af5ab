"""Reads the plugin's options: from the command line, the environment or the ini file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ..errors import OptionError
from ..run.options import read_run
from ..server.options import BY_KEYWORD, Given, from_environment, read, read_memcached
from . import NAME, OPTIONS, flag, in_ini_file, on_command_line

if TYPE_CHECKING:
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
    given = {}
    for option in BY_KEYWORD.values():
        if option.word in OPTIONS:
            name = f"{NAME}_{option.word}"
            value = in_ini_file(config, name)
            if value is not None:
                text = " ".join(value) if option.repeatable else value
                given[option.keyword] = Given(value, f"{name} = {text} in {config.inipath}")
    given |= from_environment()
    for option in BY_KEYWORD.values():
        if option.word in OPTIONS:
            name = flag(f"{NAME}_{option.word}")
            value = on_command_line(config, f"{NAME}_{option.word}")
            if value is not None:
                spelled = (
                    " ".join(f"{name}={text}" for text in value)
                    if option.repeatable
                    else f"{name}={value}"
                    if option.metavar
                    else name
                )
                given[option.keyword] = Given(value, spelled)
                if option.keyword == "guard":
                    given.pop("no_guard", None)  # It was set in the environment.
    return given
