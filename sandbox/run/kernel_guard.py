"""Keeps a command of any language from the main memcached: what the kernel asks is decided here.

A connect to a main address is refused, or led to the sandbox server of that address. A worker's
connect to the server of another worker, or of their parent, is led to its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ..errors import SandboxError
from ..inject import address, refusals, sources
from ..system import seccomp
from ..system.processes import Identity
from ..system.supervisor import REFUSED, Supervisor
from .main_addresses import MainAddresses, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from ..system.connects import Connect
    from ..system.supervisor import Decision
    from .main_addresses import Lookup
    from .sandbox import Sandbox

GO_ON = 0

# How many sockets that were led are kept apart, at most.
MOST_SOCKETS = 10_000


class KernelGuard:
    """Starts a command whose connects the kernel asks about, and decides about them.

    :param sandbox: its servers take the place of main memcacheds.
    :param control: the path of the control socket, at which processes of the run ask.
    :param guarded: main addresses that are known before a process tells its CACHES.
    :param redirects: lead connects to main addresses to servers of the sandbox; without it they are
        refused.
    :raises SandboxError: there is no such guard on this kind of machine.
    """

    def __init__(
        self, sandbox: Sandbox, control: str, guarded: Iterable[str], redirects: bool
    ) -> None:
        with _absence_explained():
            seccomp.this_machine()
        self.is_on = False  # Whether the command was started under it.
        self.led_to: set[str] = set()  # servers
        self._redirects = redirects
        self._sandbox = sandbox
        self._control = os.fsencode(control)
        self._lock = threading.Lock()
        self._mains = MainAddresses()
        # The servers of the sandbox, once there are workers with others than their own.
        self._own: frozenset[str] = frozenset()
        self._own_places: dict[str, str] = {}
        self._found: dict[tuple[str, str], str] = {}  # servers, by main address and worker
        self._asking: set[int] = set()  # processes that were seen to connect to the control socket
        self._workers: dict[int, tuple[Identity, str]] = {}
        self._notes: dict[tuple[int, str], refusals.Refusal] = {}
        self._unseen: set[int] = set()
        # The sockets that were led last: a program that does not block may call connect() twice.
        self._led_sockets: set[tuple[int, int]] = set()
        self._counts: dict[refusals.Refusal, int] = {}
        self._supervisor = Supervisor(self)
        for main in guarded:
            self._mains.add(main)

    def spawn(self, start: Callable[[], int]) -> int:
        """Starts the command, and returns its pid; `stop` must follow.

        :param start: starts the command, and returns its pid.
        :raises SandboxError: the kernel cannot guard it; nothing was started.
        """
        with _absence_explained():
            pid = self._supervisor.spawn(start)
        self.is_on = True
        return pid

    @property
    def told(self) -> list[refusals.Refusal]:
        """What was refused or led, or not to be seen."""
        with self._lock:
            return [refusal for refusal, count in self._counts.items() for _ in range(count)]

    def stop(self) -> None:
        """Ends the guard. Processes that the command has left behind connect as they like.

        :raises SandboxError: these cannot connect any more.
        """
        try:
            self._supervisor.stop()
        except OSError as error:
            raise SandboxError(
                f"processes that the command has left behind cannot connect any more: {error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def learn_worker(self, pid: int, worker: str) -> None:
        """Records which worker a process is."""
        with self._lock:
            self._workers[pid] = Identity.of(pid), worker

    def learn_mains(self, addresses: Iterable[str]) -> None:
        """Guards the addresses in the CACHES of a process."""
        servers = {server.address for server in self._sandbox.servers}
        for main in addresses:
            if main not in servers:
                self._mains.add(main)

    def learn_servers(self) -> None:
        """Records new servers. Without workers there is nothing to mix up."""
        with self._lock:
            workers = {worker for _, worker in self._workers.values() if worker}
            if any(map(self._sandbox.others, workers)):
                self._own = frozenset(server.address for server in self._sandbox.servers)
                self._own_places = {address.Address(each).place: each for each in self._own}

    def note(self, pid: int, worker: str, refusal: refusals.Refusal) -> str | None:
        """Records where in Python a process is about to connect.

        :returns: the server that it will be led to, so that its Python can empty it; "" if it will
            be refused, and None if its Python has to do that: the kernel may not ask about it.
        :raises SandboxError: the server cannot be started.
        """
        main = self._mains.of_text(refusal.address)
        with self._lock:
            if main is None:
                main = self._own_places.get(address.Address(refusal.address).place)
            if main is None or pid not in self._asking:
                return None
            self._notes[pid, address.Address(main).place] = refusal
        if address.Address(main).path and main not in self._own:
            return ""
        return self._server(main, worker)

    def decide(self, connect: Connect) -> Decision:
        """Returns the answer to a caller, or what finds it if a server has to be started."""
        if connect.path and connect.path == self._control:
            self._asking.add(connect.process)
            return GO_ON
        main = self._mains.of_connect(connect)
        if main is None and connect.host and (lookups := self._mains.lookups_at(connect.port)):
            return partial(self._decide_after, lookups, connect)
        if main is not None and connect.is_of_stream() and connect.is_waiting():
            if self._redirects and connect.host:
                return self._lead(connect, main, self._worker(connect), refusals.LED)
            return self._refuse(connect, main)
        if self._own and (connect.host or connect.path) and connect.address in self._own:
            return self._lead_home(connect)
        return GO_ON

    def _decide_after(self, lookups: Iterable[Lookup], connect: Connect) -> int:
        """Waits until it is known where the names of hosts lead that have the caller's port."""
        for lookup in lookups:
            wait(lookup)
        decision = self.decide(connect)
        return decision if isinstance(decision, int) else decision()

    def report_unseen(self, connect: Connect) -> None:
        """Tells of a process that may not be looked at, once."""
        process = connect.process
        if process not in self._unseen:
            self._unseen.add(process)
            self._keep(refusals.Refusal("", "", _described(process, connect), refusals.UNSEEN))

    def report_failure(self, connect: Connect, error: Exception) -> None:
        """Tells of a process that was refused a connection because of an error."""
        text = str(error) if isinstance(error, SandboxError) else repr(error)
        at = _described(connect.process, connect)
        self._keep(refusals.Refusal(text, "", at, refusals.BROKEN))

    def _lead_home(self, connect: Connect) -> Decision:
        """Leads a worker that connects to the server of another process to its own."""
        if not connect.is_of_stream() or (connect.host and not connect.is_in_own_network()):
            return GO_ON
        worker = self._worker(connect)
        if not worker or self._found.get((connect.address, worker)) == connect.address:
            return GO_ON
        return self._lead(connect, connect.address, worker, refusals.LED_HOME)

    def _worker(self, connect: Connect) -> str:
        """Returns the name of the worker that a caller is, or comes from; "" for none."""
        for pid in connect.processes():
            with self._lock:
                identity, worker = self._workers.get(pid, (None, ""))
            if identity is not None and identity.is_running():
                return worker
            if pid == os.getpid():
                break
        return sources.worker_of(connect.environ())

    def _lead(self, connect: Connect, main: str, worker: str, kind: str) -> Decision:
        if (main, worker) in self._found:
            return self._lead_to(connect, main, self._found[main, worker], kind)
        return lambda: self._lead_to(connect, main, self._server(main, worker), kind)

    def _server(self, main: str, worker: str) -> str:
        """Returns the server for a main address, which is started if it is missing."""
        if (main, worker) not in self._found:
            self._found[main, worker] = self._sandbox.resolve([main], worker)[main]
            self.learn_servers()
        return self._found[main, worker]

    def _lead_to(self, connect: Connect, main: str, server: str, kind: str) -> int:
        if kind == refusals.LED_HOME and server == main:
            return GO_ON  # It is the worker's own.
        # The caller may have gone when it was led.
        attempt, socket = self._attempt(connect, main, kind), connect.socket()
        if not connect.lead(address.Address(server).peer):
            if not connect.is_waiting():
                return REFUSED
            if kind == refusals.LED_HOME:
                raise SandboxError(f"{main} cannot be replaced by the worker's own {server}")
            return self._refuse(connect, main)
        self.led_to.add(server)
        if socket not in self._led_sockets:
            self._keep(attempt)
        if len(self._led_sockets) == MOST_SOCKETS:
            self._led_sockets.clear()
        self._led_sockets.add(socket)
        return GO_ON

    def _refuse(self, connect: Connect, main: str) -> int:
        self._keep(self._attempt(connect, main, refusals.BARRED))
        return REFUSED

    def _attempt(self, connect: Connect, main: str, kind: str) -> refusals.Refusal:
        process = connect.process
        with self._lock:
            note = self._notes.pop((process, address.Address(main).place), None)
        at = _described(process, connect)
        if note is not None:
            at = f"{note.at} in {at}"
        return refusals.Refusal(connect.address, note.alias if note else "", at, kind)

    def _keep(self, refusal: refusals.Refusal) -> None:
        with self._lock:
            self._counts[refusal] = self._counts.get(refusal, 0) + 1


@contextmanager
def _absence_explained() -> Iterator[None]:
    """Makes an error of the package of what keeps the kernel from guarding."""
    try:
        yield
    except seccomp.UnavailableError as error:
        raise SandboxError(str(error)) from None


def _described(process: int, connect: Connect) -> str:
    command = connect.command()
    return f"process {process} ({command})" if command else f"process {process}"
