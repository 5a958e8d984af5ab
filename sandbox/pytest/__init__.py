"""Registers the options of the pytest plugin, and begins it where one asks for it.

Each pytest loads this module if the package is installed. The rest, `fixtures` included, is loaded
when the plugin is on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator
    from contextlib import AbstractContextManager
    from typing import Literal

    from typing_extensions import Unpack

    from ..inspection.assertions import ExpectedCounts
    from .fixtures import sandboxed_caches_fixture

__all__ = ["sandboxed_caches_fixture"]

NAME = "memcached_sandbox"

# The markers that break servers, and how.
OUTAGES = {f"memcached_{kind}": kind for kind in ("down", "hung", "full")}

# The options, by their words in the table of `sandbox.server.options`: the type in the ini file,
# what stands for the value, and the help text. That table would take a millisecond to import, which
# every pytest would pay; a test compares the two.
OPTIONS: dict[str, tuple[Literal["string", "bool", "args"], str, str]] = {
    "memory": ("string", "MB", "Memory cap of each server, in MB or such as 512m or 1g."),
    "max_item_size": ("string", "SIZE", "Largest value of an item, such as 2m."),
    "threads": ("string", "N", "Worker threads of each server."),
    "max_connections": ("string", "N", "Limit of connections and of memcached's own files."),
    "unix": (
        "bool",
        "",
        "Listen on a Unix socket, which other users of this machine cannot reach.",
    ),
    "binary": (
        "string",
        "PATH",
        "memcached to run: a path, a name on PATH or an installed suite.",
    ),
    "arg": ("args", "ARG", "Further argument for memcached; repeatable."),
    "start_timeout": ("string", "SECONDS", "Time limit for the start of a server."),
    "crawl": ("bool", "", "Free flushed items, for caches that list their keys by slabs."),
    "exclude": ("args", "ALIAS", "Leave this alias in CACHES alone; repeatable."),
    "flush": (
        "string",
        "WHEN",
        "Empty the caches after each test, class, module or session, or never.",
    ),
    "guard": (
        "args",
        "HOST:PORT",
        "Refuse connections to this address, too; repeatable; 'off' for no guard.",
    ),
    "strict": ("bool", "", "Fail if the guard refused a connection, or nothing used the sandbox."),
    "quiet": ("bool", "", "Print no summary."),
    "leaks": (
        "bool",
        "",
        "Tell at the end what tests would have left for others, without isolation.",
    ),
    "leaks_json": ("string", "FILE", "Write the same into a file, as JSON."),
    "report": ("bool", "", "Tell at the end which keys and tests had most operations."),
    "report_top": ("string", "N", "Tell of N keys and N tests."),
    "report_json": (
        "string",
        "FILE",
        "Write the operations of all keys and tests into a file, as JSON.",
    ),
    "report_html": (
        "string",
        "FILE",
        "Write the report into a page, with a timeline of each test.",
    ),
    "findings": (
        "bool",
        "",
        "Tell of keys without expiry, fetched repeatedly, never read, too large or evicted.",
    ),
    "trace": (
        "bool",
        "",
        "Show the last operations of a failed test; each costs up to three times as much.",
    ),
}


# Those that mean nothing without the plugin: on the command line they turn it on.
TURNING_ON = (
    *("leaks", "leaks_json", "report", "report_top", "report_json", "report_html"),
    *("findings", "trace"),
)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    # It may be named as well, by `-p sandbox.pytest` or pytest_plugins, and is loaded once.
    names = {NAME, __name__} - {pluginmanager.get_name(sys.modules[__name__])}
    for name in names:
        pluginmanager.set_blocked(name)
    group = parser.getgroup(NAME, "memcached-sandbox")
    about = "Point Django's CACHES at a memcached of this run."
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
    """Returns the name of an option on the command line."""
    return f"--{name.replace('_', '-')}"


def on_command_line(config: pytest.Config, name: str) -> Any:
    """Returns what the command line says of an option, or None."""
    # What was parsed before the conftests are loaded lacks the options of plugins that they name.
    late = getattr(config.option, name, None)
    return getattr(config.known_args_namespace, name, late)


def in_ini_file(config: pytest.Config, name: str) -> Any:
    """Returns what the ini file says of an option, or None.

    :raises pytest.UsageError: it is not of the option's type.
    """
    try:
        return config.getini(name)
    except (ValueError, TypeError, pytest.UsageError) as error:  # it depends on the version
        where = override_of(config, name) or f"{name} in {config.inipath}"
        raise pytest.UsageError(f"{where}: {error}") from None


def override_of(config: pytest.Config, name: str) -> str | None:
    """Returns what was typed to override an option of the ini file, or None."""
    overrides = on_command_line(config, "override_ini") or []
    typed = [entry for entry in overrides if entry.partition("=")[0] == name]
    return f"-o {typed[-1]}" if typed else None


def is_on(config: pytest.Config) -> bool:
    """Returns whether the plugin is on."""
    asked = (NAME, *(f"{NAME}_{word}" for word in TURNING_ON))
    typed = any(on_command_line(config, name) not in (None, False) for name in asked)
    return typed or bool(in_ini_file(config, NAME))


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Begins before anyone else: pytest-django loads Django's settings here."""
    if not is_on(early_config):
        return (yield)
    from .activation import begin, errors_explained

    with errors_explained():
        begin(early_config)
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Begins now if it is a conftest.py that has named this plugin."""
    config.addinivalue_line(
        "markers",
        "allow_finding(kind, *keys): do not warn of such findings, or not at keys like these",
    )
    for name, how in (
        ("down", "refuses connections"),
        ("hung", "accepts connections, and does not answer"),
        ("full", "refuses to set anything"),
    ):
        config.addinivalue_line(
            "markers", f"memcached_{name}(alias='default'): the memcached of an alias {how}"
        )
    if is_on(config):
        from .activation import begin, errors_explained

        with errors_explained():
            begin(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in _outages(item):
            from .outages import check

            check(item, mark)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Breaks servers for the call of a test, within what others do around it, as a time limit."""
    if not (marks := _outages(item)):
        return (yield)
    from .outages import broken

    with broken(marks):
        return (yield)


def _outages(item: pytest.Item) -> list[pytest.Mark]:
    return [mark for mark in item.iter_markers() if mark.name in OUTAGES]


@pytest.fixture
def assert_cache_ops() -> Callable[..., AbstractContextManager[None]]:
    """Fails if the body of a ``with`` does something else to caches than it says.

        with assert_cache_ops(gets=2, hits=1):
            client.get("/")

    The counts are those of `sandbox.Counts`; what is not named is not compared. ``using=`` names
    another alias of CACHES than "default", or several.
    """
    return _assertion("assert_cache_ops()")


@pytest.fixture
def assert_max_cache_ops() -> Callable[..., AbstractContextManager[None]]:
    """Fails if the body of a ``with`` does more to caches than it says; see assert_cache_ops."""
    return _assertion("assert_max_cache_ops()", is_limit=True)


def _assertion(caller: str, is_limit: bool = False) -> Callable[..., AbstractContextManager[None]]:
    def assertion(
        *, using: str | Collection[str] = "default", **counts: Unpack[ExpectedCounts]
    ) -> AbstractContextManager[None]:
        from ..django.assertions import expected_operations

        return expected_operations(caller, using, counts, is_limit)

    return assertion


def __getattr__(name: str) -> object:
    if name != "sandboxed_caches_fixture":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .fixtures import sandboxed_caches_fixture

    return sandboxed_caches_fixture
