"""Empties the caches after tests of pytest, and tells workers of pytest-xdist what is theirs.

Loaded through PYTEST_PLUGINS, or by the plugin of the package. A pytest within a pytest may find it
loaded already and is told not to mind: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import os

import pytest

from . import hooks
from .errors import RunError
from .flushing import asks_to_keep, end_attempt, flushed_after_test
from .run import current_run

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterator

KEEP_CACHE_ARGUMENTS = ((), ("class",), ("module",), ("session",))

# How long caches are kept, the shortest time first. "never" is when they are flushed, not kept.
SCOPES = ("test", "class", "module", "session", "never")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Empties the caches after a test whose teardown has not: it may have died in a child."""
    try:
        with flushed_after_test(keeps(item, nextitem, current_run().flushed_after)):
            yield
    except RunError as error:
        item.session.shouldstop = str(error)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Marks in the logs of the servers that an attempt at a test begins."""
    current_run().begin_test(item.nodeid)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Empties the caches after each attempt: some plugins run a test again in its protocol."""
    yield
    try:
        end_attempt(keeps(item, nextitem, current_run().flushed_after))
    except RunError as error:
        item.session.shouldstop = str(error)


def keeps(item: pytest.Item, nextitem: pytest.Item | None, flushed_after: str) -> bool:
    """Returns whether a test leaves its caches as they are to the next one."""
    scope = kept_for(item, flushed_after)
    if scope in ("test", "never"):
        return scope == "never"
    if nextitem is None or scope == "session":
        return nextitem is not None
    kind = pytest.Class if scope == "class" else pytest.Module
    node = item.getparent(kind)
    return node is not None and node is nextitem.getparent(kind)


def kept_for(item: pytest.Item, flushed_after: str) -> str:
    """Returns how long a test keeps caches that are flushed after such a scope."""
    return max(_marked(item), flushed_after, key=SCOPES.index)


def _marked(item: pytest.Item) -> str:
    """Returns how long a test keeps the caches, by its marker or attribute.

    An attribute ends with its class.
    """
    marker = item.get_closest_marker("keep_cache")
    if marker is not None:
        return str(marker.args[0]) if marker.args else "never"
    cls = getattr(item, "cls", None)
    if any(map(asks_to_keep, (cls, getattr(item, "obj", None)))):
        return "class" if cls else "never"
    return "test"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("keep_cache")
        if marker is None or (marker.args in KEEP_CACHE_ARGUMENTS and not marker.kwargs):
            continue
        given = [*map(repr, marker.args), *(f"{k}={v!r}" for k, v in marker.kwargs.items())]
        raise pytest.UsageError(
            f"{item.nodeid}: keep_cache takes 'class', 'module', 'session' or nothing, "
            f"but got {', '.join(given)}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Changes modules of pytest's plugins, too: pytest finds them itself, to rewrite assertions."""
    hooks.come_first()
    if not hooks.lost and distributes(early_config):
        current_run().defers = True


def distributes(config: pytest.Config) -> bool:
    """Returns whether this is a controller of pytest-xdist, which leaves all tests to workers."""
    options = vars(config.known_args_namespace)
    processes = options.get("numprocesses")
    if options.get("usepdb") and processes in ("auto", "logical"):
        processes = 0  # as pytest_cmdline_main() in xdist/plugin.py decides later
    has_workers = processes or (options.get("tx") and options.get("dist") != "no")
    return bool(has_workers) and "PYTEST_XDIST_WORKER" not in os.environ


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "keep_cache(scope): do not empty the caches after this test, or not before the end of its "
        "'class', 'module' or 'session'",
    )
    if hasattr(config, "workerinput") and current_run().worker:
        # Django's settings have asked under this name already; the environment has not.
        from .workers import become_worker

        become_worker(current_run().worker)
