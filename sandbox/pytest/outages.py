"""Breaks servers for tests that a marker asks it for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ..django.aliases import servers_of_aliases
from ..errors import RunError, ServerError
from ..server.outages import OutageOf
from . import OUTAGES


@contextmanager
def broken(markers: Collection[pytest.Mark]) -> Iterator[None]:
    """Has the servers that markers name in outages while its body lasts. Fails if it cannot."""
    wanted = {(OUTAGES[mark.name], mark.kwargs.get("alias", "default")): mark for mark in markers}
    with ExitStack() as outages:
        for (kind, alias), mark in wanted.items():
            try:
                servers = servers_of_aliases([alias], f"@pytest.mark.{mark.name}")
                outages.enter_context(OutageOf(servers, kind))
            except (RunError, ServerError) as error:
                outages.close()
                pytest.fail(str(error), pytrace=False)
        yield


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
