"""The options of the pytest plugin: on the command line, in the ini file, and as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    from ..options import MemcachedOptions

NAME = "memcached_sandbox"

FLUSHED_AFTER = ("test", "class", "module", "session", "never")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _size(text: str) -> int:
    from ..options import size

    return size(text)


def _scope(text: str) -> str:
    if text not in FLUSHED_AFTER:
        raise ValueError(f"{text!r} is none of {', '.join(FLUSHED_AFTER)}")
    return text


def _addresses(texts: Sequence[str]) -> list[str] | None:
    from ..inject import repoint

    if "off" in texts:
        if len(texts) > 1:
            raise ValueError("'off' is for no guard at all: give either it or addresses")
        return None
    return [repoint.address(text) for text in texts]


class Option(NamedTuple):
    """An option: the argument that it is in Python, how to read it, and what others need."""

    argument: str
    read: Callable[[Any], object]
    ini_type: Literal["string", "bool", "args"]
    argparse: dict[str, Any]
    help: str


OF_MEMCACHED = {
    "memory": Option(
        "memory_mb",
        _whole_number,
        "string",
        {"metavar": "MB"},
        "the cap of each server's memory (64)",
    ),
    "max_item_size": Option(
        "max_item_size",
        _size,
        "string",
        {"metavar": "SIZE"},
        "the largest value it takes, such as 2m (1m)",
    ),
    "threads": Option(
        "threads", _whole_number, "string", {"metavar": "N"}, "its worker threads (1)"
    ),
    "unix": Option(
        "unix_socket",
        bool,
        "bool",
        {"action": "store_true"},
        "listen on a Unix socket, out of reach of other users of this machine",
    ),
    "binary": Option("binary", str, "string", {"metavar": "PATH"}, "the memcached to run"),
}

OF_RUN = {
    "exclude": Option(
        "exclude",
        list,
        "args",
        {"metavar": "ALIAS", "action": "append"},
        "an alias in CACHES to leave alone; repeatable",
    ),
    "flush": Option(
        "flush",
        _scope,
        "string",
        {"metavar": "SCOPE"},
        "empty the caches after each test, class, module or session, or never (test)",
    ),
    "guard": Option(
        "guard",
        _addresses,
        "args",
        {"metavar": "HOST:PORT", "action": "append"},
        "a further address that must not be connected to, or 'off' for no guard; repeatable",
    ),
}


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup(NAME, "memcached-sandbox")
    about = "give Django's CACHES a memcached of this run's own"
    group.addoption("--memcached-sandbox", action="store_true", help=about)
    parser.addini(NAME, about, "bool", default=False)
    for name, option in {**OF_MEMCACHED, **OF_RUN}.items():
        dest = f"{NAME}_{name}"
        group.addoption(_flag(dest), dest=dest, default=None, help=option.help, **option.argparse)
        parser.addini(dest, option.help, option.ini_type, default=None)


def is_on(config: pytest.Config) -> bool:
    return bool(_on_command_line(config, NAME) or config.getini(NAME))


def memcached_options(config: pytest.Config) -> MemcachedOptions:
    """Return the arguments of `Memcached` that were given. Raises pytest.UsageError."""
    from ..errors import OptionError
    from ..memcached import Memcached

    options = cast("MemcachedOptions", _read(config, OF_MEMCACHED))
    try:
        Memcached(**options)  # only to say now what is wrong with them
    except OptionError as error:
        names = {option.argument: name for name, option in OF_MEMCACHED.items()}
        raise _usage_error(config, names[error.option], error.problem) from None
    return options


def run_options(config: pytest.Config) -> dict[str, Any]:
    """Return the arguments of `enter_run` that were given. Raises pytest.UsageError."""
    return _read(config, OF_RUN)


def _read(config: pytest.Config, options: dict[str, Option]) -> dict[str, Any]:
    given = {}
    for name, option in options.items():
        value = _on_command_line(config, f"{NAME}_{name}")
        if value is None:
            value = config.getini(f"{NAME}_{name}")
        if value is not None:
            try:
                given[option.argument] = option.read(value)
            except ValueError as error:
                raise _usage_error(config, name, str(error)) from None
    return given


def _on_command_line(config: pytest.Config, dest: str) -> Any:
    # What was parsed before the conftests are loaded lacks the options of plugins that they name.
    late = getattr(config.option, dest, None)
    return getattr(config.known_args_namespace, dest, late)


def _usage_error(config: pytest.Config, name: str, problem: str) -> pytest.UsageError:
    dest = f"{NAME}_{name}"
    if _on_command_line(config, dest) is None:
        return pytest.UsageError(f"{dest} in {config.inipath}: {problem}")
    return pytest.UsageError(f"{_flag(dest)}: {problem}")


def _flag(dest: str) -> str:
    return f"--{dest.replace('_', '-')}"
