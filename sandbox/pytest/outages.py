"""Breaks servers for tests that a marker asks it for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from ..django.aliases import servers_of_aliases
from ..errors import RunError, ServerError
from ..server.outages import BrokenServers
from . import OUTAGES

if TYPE_CHECKING:
    from ..server import Server


@contextmanager
def broken(markers: Collection[pytest.Mark]) -> Iterator[None]:
    """Has the servers that markers name in outages while its body lasts. Fails if it cannot."""
    problem = ""
    with ExitStack() as outages:
        try:
            for server, mark in _servers(markers).values():
                name = f"@pytest.mark.{mark.name}"
                outages.enter_context(BrokenServers([server], OUTAGES[mark.name]))
        except RunError as error:
            problem = str(error)
        except ServerError as error:
            problem = f"{name}: {error}"
        if not problem:
            yield
    if problem:
        pytest.fail(problem, pytrace=False)


def _servers(markers: Collection[pytest.Mark]) -> dict[str, tuple[Server, pytest.Mark]]:
    """Returns the servers that markers name, by address, each with the closest marker.

    Aliases may share a server.

    :raises RunError: an alias is in no sandbox.
    """
    found: dict[str, tuple[Server, pytest.Mark]] = {}
    for mark in markers:
        alias = mark.kwargs.get("alias", "default")
        for server in servers_of_aliases([alias], f"@pytest.mark.{mark.name}"):
            found.setdefault(server.address, (server, mark))
    return found


def check(item: pytest.Item, mark: pytest.Mark) -> None:
    """Checks what a marker is given.

    :raises pytest.UsageError: it takes something else.
    """
    alias = mark.kwargs.get("alias", "")
    if mark.args or not set(mark.kwargs) <= {"alias"} or not isinstance(alias, str):
        given = [*map(repr, mark.args), *(f"{k}={v!r}" for k, v in mark.kwargs.items())]
        raise pytest.UsageError(
            f"{item.nodeid}: {mark.name} takes alias=, one in CACHES, or nothing, but got "
            f"{', '.join(given)}"
        )
