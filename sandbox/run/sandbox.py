"""Starts the servers of one run: one for each main address, a set of them for each worker."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from ..errors import ServerError
from ..registry.directories import ControlDirectory
from ..server.memcached import Memcached
from ..server.options import check
from ..system import deferred, no_fork

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..inspection.inspector import Inspector
    from ..server.options import MemcachedOptions


class Sandbox:
    """Starts one server for each distinct main address, when it is first asked for.

    Use it as a context manager, or call `stop`. Its servers end with this process at the latest.

    :param options: those of `Memcached`, for all servers.
    :raises OptionError: one of them is wrong.
    """

    __module__ = "sandbox"  # where its users find it

    def __init__(self, **options: Unpack[MemcachedOptions]) -> None:
        check(options)
        self._options = options
        # Re-entrant: after a Ctrl-C just before the release, `stop` must still be able to take it.
        self._lock = threading.RLock()
        self._worker_locks = defaultdict[str, AbstractContextManager[object]](threading.RLock)
        self._ahead: list[Memcached] = []
        self._servers: dict[tuple[str, str], Memcached] = {}  # by worker and main address
        self._control_directory: ControlDirectory | None = None
        self.inspector: Inspector | None = None  # set before there are servers

    @property
    def servers(self) -> list[Memcached]:
        """The servers that were started, in that order."""
        with self._lock:
            return [*self._servers.values(), *self._ahead]

    @property
    def resolved(self) -> dict[str, dict[str, str]]:
        """The sandbox addresses, by worker, by main address."""
        with self._lock:
            table: dict[str, dict[str, str]] = {}
            for (worker, main), server in self._servers.items():
                table.setdefault(worker, {})[main] = server.address
            return table

    @property
    def control_directory(self) -> ControlDirectory:
        """The directory for the files of the run, made before its first server.

        The directories of its servers lie beside it. It is removed by `stop`, or by their reapers.

        :raises SandboxError: it cannot be made.
        """
        with deferred(), self._lock, no_fork:
            if self._control_directory is None:
                self._control_directory = ControlDirectory.create()
                weakref.finalize(self, self._control_directory.release).atexit = False
            return self._control_directory

    def _new_server(self) -> Memcached:
        server = Memcached(**self._options)
        server.control_directory = self.control_directory
        if self.inspector is not None:
            server.follow_log = self.inspector.follow
        return server

    def _give_up(self, servers: Iterable[Memcached]) -> None:
        """Ends servers of which one cannot be started; nothing is left if there are no others."""
        for server in servers:
            server.stop()
        if not self.servers:
            self.stop()

    def launch(self, count: int) -> list[Memcached]:
        """Launches servers for main addresses that will be asked for, and returns them.

        Their ``wait()`` is up to the caller, before anyone asks.
        """
        launched: list[Memcached] = []
        try:
            for _ in range(count):
                launched.append(self._new_server())
                launched[-1].launch()
        except BaseException:
            self._give_up(launched)
            raise
        with self._lock:
            self._ahead += launched
        return launched

    def resolve(self, addresses: Iterable[str], worker: str = "") -> dict[str, str]:
        """Returns the sandbox address for each main address, as a worker has it.

        For the worker that owns it a sandbox address stays; for another worker it becomes that
        worker's address for the same main address. Missing servers are started side by side: all
        of them or, if one cannot be started, none.

        :param addresses: as Django's LOCATION spells them.
        :param worker: the name of the worker; "" for a process that is none.
        :raises SandboxError: a server cannot be started.
        """
        with self._lock:
            worker_lock = self._worker_locks[worker]
        # Who asks meanwhile under the same name gets the same answer; others need not wait.
        with worker_lock:
            with self._lock:
                mains = self._mains(addresses)
                wanted = list(dict.fromkeys(mains.values()))
                if not worker:
                    self._take(wanted)
            self._start((worker, main) for main in wanted)
            with self._lock:
                return {
                    address: self._servers[worker, main].address for address, main in mains.items()
                }

    def others(self, worker: str) -> list[str]:
        """Returns the addresses of the servers that this worker does not use."""
        with self._lock:
            own = [server for (name, _), server in self._servers.items() if name == worker]
            return [server.address for server in self.servers if server not in own]

    def log(self, server: str) -> str:
        """Returns the path of what a server prints; "" if the address is that of no server."""
        own = self.server_at(server)
        return "" if own is None else own._log_path()

    def server_at(self, text: str) -> Memcached | None:
        """Returns the server at an address, or None."""
        from ..inject import address

        place = address.Address(text).place
        for server in self.servers:
            if address.Address(server.address).place == place:
                return server
        return None

    def prepare(self, addresses: Iterable[str], workers: Iterable[str]) -> None:
        """Starts the servers of several workers side by side, before any of them asks."""
        with self._lock:
            mains = self._mains(addresses).values()
        self._start((worker, main) for worker in workers for main in dict.fromkeys(mains))

    def _mains(self, addresses: Iterable[str]) -> dict[str, str]:
        """Returns the main address of each: of a sandbox address, or as it was spelled first."""
        from ..inject import address

        known: dict[str, str] = {}
        for (_, main), server in self._servers.items():
            known.setdefault(address.Address(main).place, main)
            known[address.Address(server.address).place] = main
        return {text: known.setdefault(address.Address(text).place, text) for text in addresses}

    def _take(self, mains: list[str]) -> None:
        """Gives those of the main process the servers that were launched ahead."""
        ahead = {server.address: server for server in self._ahead}
        for main in mains:
            if ahead and ("", main) not in self._servers:
                # The address of such a server may be in settings already: then it is for itself.
                server = ahead.pop(main if main in ahead else next(iter(ahead)))
                self._servers["", main] = server
                self._ahead.remove(server)

    def _start(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Starts what is missing of these, which are workers and main addresses."""
        with self._lock:
            new = {key: self._new_server() for key in wanted if key not in self._servers}
        try:
            for server in new.values():
                server.launch()
            for server in new.values():
                server.wait()
            with self._lock:
                self._servers.update(new)
            if new:
                from ..inject import guard

                guard.undelay(server.address for server in new.values())
        except BaseException:
            self._give_up(new.values())
            raise

    def started_at(self, address: str) -> Memcached:
        """Returns the server at an address, to break it.

        :raises ServerError: there is none.
        """
        if (server := self.server_at(address)) is None:
            raise ServerError(f"memcached at {address} cannot be broken: this run did not start it")
        return server

    def down(self) -> AbstractContextManager[None]:
        """Has all servers refuse connections while its body lasts: see `Server.down`."""
        return self._outage("down")

    def hung(self) -> AbstractContextManager[None]:
        """Has all servers answer nothing while its body lasts: see `Server.hung`."""
        return self._outage("hung")

    def full(self) -> AbstractContextManager[None]:
        """Has all servers refuse to set anything while its body lasts: see `Server.full`."""
        return self._outage("full")

    def _outage(self, kind: str) -> AbstractContextManager[None]:
        from ..server.outages import BrokenServers

        return BrokenServers(self.servers, kind)

    def restart(self) -> None:
        """Kills all servers, and starts them anew: see `Server.restart`."""
        from ..server.outages import restart

        restart(self.servers)

    def mend(self, addresses: Iterable[str]) -> bool:
        """Ends the outages of some servers; returns whether there was one.

        :raises ServerError: one of them cannot be started again.
        """
        servers = {self.server_at(address) for address in addresses}
        mended = [server.mend() for server in servers if server is not None]
        return any(mended)

    def flush(self) -> None:
        """Empties all servers, and ends their outages: a test has ended."""
        for server in self.servers:
            server.mend()
            server.flush()

    def stop(self) -> None:
        """Ends all servers. Another `resolve` starts new ones."""
        with deferred():
            with self._lock:
                servers, control = self.servers, self._control_directory
                self._servers, self._ahead, self._control_directory = {}, [], None
            with ExitStack() as stack:  # What fails to end keeps none of the others.
                if control is not None:
                    stack.callback(control.release)
                for server in servers:
                    stack.callback(server.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
