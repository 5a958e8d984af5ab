"""Finds servers by the IDs that ``sandbox list`` shows."""

from __future__ import annotations

from collections.abc import Collection

import click

from ..registry import inventory
from ..registry.run_directory import where


def servers_with(ids: Collection[str]) -> tuple[list[inventory.RunningServer], list[str]]:
    """Returns what `inventory.servers` does, if that has all of these IDs.

    :raises click.UsageError: an ID is that of no server.
    """
    servers, unknown = inventory.servers()
    if missing := set(ids).difference(server.directory.name for server in servers):
        raise click.UsageError(
            f"There is no sandbox {min(missing)!r} {where()}: 'sandbox list' shows the IDs."
        )
    return servers, unknown
