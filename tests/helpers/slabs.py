"""Lists keys by slabs, as some projects' cache classes do."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from .processes import eventually

if TYPE_CHECKING:
    from pymemcache import Client

    from sandbox import Server


def list_keys(server: Server) -> None:
    """Set items of many sizes, and list them. None of an earlier test may be listed."""
    with closing(server.client()) as client:
        assert _keys(client) == []
        for number in range(20):
            client.set(f"key-{number}", "x" * 100 * number, noreply=False)
        # They are listed once memcached has moved them to another list.
        eventually(lambda: _keys(client))


def _keys(client: Client) -> list[bytes]:
    return [
        line.split()[1]
        for number in range(1, 20)
        for line in client.raw_command(f"stats cachedump {number} 0", b"END\r\n").splitlines()
        if line.startswith(b"ITEM ")
    ]
