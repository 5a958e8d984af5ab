"""The pytest plugin: its options, and where it begins.

Whoever has installed the package loads this with each pytest. The rest, `fixtures` included, is not
loaded before the plugin is on or somebody asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from .fixtures import sandboxed_caches_fixture

__all__ = ["sandboxed_caches_fixture"]

NAME = "memcached_sandbox"

# What may be given on the command line and in the ini file: the type there, what to call the value,
# and what it is about. `options` has what becomes of it.
OPTIONS: dict[str, tuple[Literal["string", "bool", "args"], str, str]] = {
    "memory": ("string", "MB", "the cap of each server's memory (64)"),
    "max_item_size": ("string", "SIZE", "the largest value it takes, such as 2m (1m)"),
    "threads": ("string", "N", "its worker threads (1)"),
    "unix": ("bool", "", "listen on a Unix socket, out of reach of other users of this machine"),
    "binary": ("string", "PATH", "the memcached to run"),
    "exclude": ("args", "ALIAS", "an alias in CACHES to leave alone; repeatable"),
    "flush": (
        "string",
        "SCOPE",
        "empty the caches after each test, class, module or session, or never (test)",
    ),
    "guard": (
        "args",
        "HOST:PORT",
        "a further address that must not be connected to, or 'off' for no guard; repeatable",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(NAME, "memcached-sandbox")
    about = "give Django's CACHES a memcached of this run's own"
    group.addoption(flag(NAME), action="store_true", help=about)
    parser.addini(NAME, about, "bool", default=False)
    for name, (kind, metavar, about) in OPTIONS.items():
        full_name = f"{NAME}_{name}"
        how: dict[str, Any] = {"action": "store_true"} if kind == "bool" else {"metavar": metavar}
        if kind == "args":
            how["action"] = "append"
        group.addoption(flag(full_name), dest=full_name, default=None, help=about, **how)
        parser.addini(full_name, about, kind, default=None)


def flag(name: str) -> str:
    """Return how an option is called on the command line."""
    return f"--{name.replace('_', '-')}"


def on_command_line(config: pytest.Config, name: str) -> Any:
    """Return what the command line says of an option, or None."""
    # What was parsed before the conftests are loaded lacks the options of plugins that they name.
    late = getattr(config.option, name, None)
    return getattr(config.known_args_namespace, name, late)


def is_on(config: pytest.Config) -> bool:
    return bool(on_command_line(config, NAME) or config.getini(NAME))


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Begin before anyone else: pytest-django loads Django's settings here."""
    if not is_on(early_config):
        return (yield)
    from .activation import begin, errors_explained

    with errors_explained():
        begin(early_config)
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Begin now if it is a conftest.py that has named this plugin."""
    if is_on(config):
        from .activation import begin, errors_explained

        with errors_explained():
            begin(config)


def __getattr__(name: str) -> object:
    if name != "sandboxed_caches_fixture":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .fixtures import sandboxed_caches_fixture

    return sandboxed_caches_fixture
