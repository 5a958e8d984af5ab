"""The stand-ins of one run: a server for each address of the main memcached."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from .server import Memcached

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .options import MemcachedOptions


class Sandbox:
    """One stand-in server for each distinct main address, started when first asked for.

    Takes the options of `Memcached` for all of them, and raises what that raises. Use it as a
    context manager, or call `stop`; its servers end with this process at the latest.
    """

    def __init__(self, **options: Unpack[MemcachedOptions]) -> None:
        Memcached(**options)  # only to say now what is wrong with them
        self._options = options
        self._servers: dict[str, Memcached] = {}
        self._lock = threading.Lock()

    @property
    def servers(self) -> list[Memcached]:
        """The servers that were started, in the order of their main addresses."""
        return list(self._servers.values())

    def stand_in(self, addresses: Iterable[str]) -> dict[str, str]:
        """Return the stand-in's address for each main address.

        Same address, same server. The servers that are missing are started side by side, all of
        them or, if one cannot be, none.
        """
        wanted = list(dict.fromkeys(addresses))
        with self._lock:
            new = {a: Memcached(**self._options) for a in wanted if a not in self._servers}
            try:
                for server in new.values():
                    server.launch()
                for server in new.values():
                    server.wait()
            except BaseException:
                for server in new.values():
                    server.stop()
                raise
            self._servers.update(new)
            return {address: self._servers[address].address for address in wanted}

    def flush(self) -> None:
        """Empty all servers."""
        for server in self.servers:
            server.flush()

    def stop(self) -> None:
        """End all servers. Another `stand_in` starts new ones."""
        with self._lock:
            servers, self._servers = self.servers, {}
            for server in servers:
                server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
