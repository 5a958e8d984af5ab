"""Serves one Sandbox to the processes of a run over a Unix socket.

A request is one line of JSON on a connection of its own, and so is the answer:
``{"resolve": [ADDRESS...], "worker": NAME}`` is answered with
``{"addresses": {ADDRESS: ADDRESS...}}``, ``{"others": NAME}`` with ``{"others": [ADDRESS...]}``,
``{"log": ADDRESS}`` with ``{"log": PATH}`` of what that server prints, or "" if it is none,
``{"mains": [ADDRESS...]}``, which tells main addresses that no server is asked for, with ``{}``,
``{"refused": {"address": ..., "alias": ..., "at": ..., "kind": ...}}`` with ``{}``. The same with
"leads" in place of "refused", and with a worker, is answered with ``{"leads": ADDRESS}``: where the
guard of the kernel leads such a connection, "" if it refuses it, or null if it does neither. What
cannot be done is answered with ``{"error": REASON}``.

``{"outage": "down", "server": ADDRESS}``, or "hung" or "full", is answered with ``{}`` when the
server is so. It is mended when the client has sent another line, which is answered with
``{"mended": true}``, or when the connection has ended. ``{"restart": ADDRESS}`` is answered with
``{}``, and ``{"mend": [ADDRESS...]}``, which ends the outages of others, too, with
``{"mended": BOOL}``: whether there was one. What keeps a server from it is answered with
``{"problem": REASON}``. After the first of these, a file beside the socket has all outages.
"""

from __future__ import annotations

import _socket
import json
import os
import posix  # gevent and eventlet replace functions of os, but none of posix
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..errors import SandboxError, ServerError, explain_limit
from ..inject import address, protocol, refusals, sources
from ..registry.directories import OUTAGES

if TYPE_CHECKING:
    from typing import TypeGuard

    from .kernel_guard import KernelGuard
    from .sandbox import Sandbox

# Clients that may wait until they are accepted. The kernel allows fewer: 4096 since Linux 5.4.
BACKLOG = 65535

# Seconds to wait for the request of a client that has connected.
REQUEST_TIMEOUT = 10.0

# The same while other clients wait for this one, since no thread can be started for it.
REQUEST_TIMEOUT_IN_TURN = 1.0

# Seconds until the next attempt to accept a client, after an error.
RETRY_PAUSE = 0.01


class Control:
    """Answers other processes at the control socket of a run, which they ask for addresses.

    :param path: where to make it: in a directory that only this user may enter.
    :param kernel_guard: the guard to tell of the addresses in each CACHES, if there is one.
    :raises SandboxError: it cannot be made there, or not be served.
    """

    def __init__(
        self, sandbox: Sandbox, path: str, kernel_guard: KernelGuard | None = None
    ) -> None:
        self.path = path
        self.was_asked = False  # Whether a process has asked for the address of its own CACHES.
        self.told: set[str] = set()  # the servers that processes know, and empty after tests
        self._kernel_guard = kernel_guard
        self.refusals: list[refusals.Refusal] = []
        self._sandbox = sandbox
        self._outages = OutageRequests(sandbox, os.path.join(os.path.dirname(path), sources.BROKEN))
        self._stopped = threading.Event()
        try:
            self._socket = _listening_socket(path)
        except OSError as error:
            what = explain_limit(error) or f"{error}; point TMPDIR to a folder with a shorter path"
            raise SandboxError(f"the control socket cannot be made at {path}: {what}") from error
        try:
            threading.Thread(target=self._accept, daemon=True).start()
        except RuntimeError as error:
            self._socket.close()
            raise SandboxError(
                f"the control socket cannot be served: {error}: "
                "end some programs, or raise 'ulimit -u'"
            ) from error

    def stop(self) -> None:
        """Stops answering."""
        self._stopped.set()
        with suppress(OSError):  # macOS refuses it: there, close() wakes accept().
            self._socket.shutdown(_socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                self._accept_client()
            except Exception:  # noqa: BLE001 - whatever it was, the next client is served
                # Most likely there is no free descriptor, until another client has been served.
                self._stopped.wait(RETRY_PAUSE)

    def _accept_client(self) -> None:
        # What socket.accept() calls. It is not in typeshed.
        descriptor, _ = self._socket._accept()  # type: ignore[attr-defined]
        connection = _socket.socket(fileno=descriptor)
        try:
            threading.Thread(target=self._serve, args=(connection, False), daemon=True).start()
        except RuntimeError:
            self._serve(connection, True)

    def _serve(self, connection: _socket.socket, in_turn: bool) -> None:
        """Answers a client.

        :param in_turn: others wait meanwhile.
        """
        timeout = REQUEST_TIMEOUT_IN_TURN if in_turn else REQUEST_TIMEOUT
        begun: list[Callable[[], bool]] = []  # ends the outage that the client has asked for
        try:
            line = protocol.receive_line(connection, timeout)
            reply = self._reply(line, connection, begun)
            if begun and in_turn:
                _end(begun)
                reply = {
                    "problem": "no thread can wait for the end of an outage: end some programs"
                }
            _send(connection, reply, timeout)
            if begun:
                connection.settimeout(None)
                connection.recv(1)
                _send(connection, _end(begun), timeout)
        except OSError:
            pass  # The client has gone, or has not asked.
        finally:
            _end(begun)
            connection.close()

    def _reply(
        self, line: bytes, client: _socket.socket, begun: list[Callable[[], bool]]
    ) -> Mapping[str, object]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": f"the request is not a line of JSON: {line[:80]!r}"}
        try:
            broken = isinstance(request, dict) and self._outages.answer(request, begun)
            return broken or self._answer(request, client)
        except ServerError as error:
            return {"problem": str(error)}
        except SandboxError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client is told
            limit = explain_limit(error) if isinstance(error, OSError) else None
            reason = limit or repr(error)
        return {"error": f"the process that owns the sandbox failed: {reason}"}

    def _answer(self, request: object, client: _socket.socket) -> Mapping[str, object]:
        if isinstance(request, dict):
            addresses, worker = request.get("resolve"), request.get("worker", "")
            if _are_strings(addresses) and isinstance(worker, str):
                return {"addresses": self._resolve(addresses, worker, client)}
            mains = request.get("mains")
            if _are_strings(mains):
                if self._kernel_guard is not None:
                    self._kernel_guard.learn_mains(mains)
                return {}
            if isinstance(request.get("others"), str):
                return {"others": self._sandbox.others(request["others"])}
            if isinstance(request.get("log"), str):
                return {"log": self._sandbox.log(request["log"])}
            if refused := _refusal(request.get("refused")):
                self.refusals.append(refused)
                return {}
            if (noted := _refusal(request.get("leads"))) and isinstance(worker, str):
                return {"leads": self._note(noted, worker, client)}
        return {"error": f"the request asks for nothing that is known: {str(request)[:80]}"}

    def _resolve(self, addresses: list[str], worker: str, client: _socket.socket) -> dict[str, str]:
        servers = {server.address for server in self._sandbox.servers}
        # A worker asks for its own in place of those in its environment, whatever its CACHES are.
        self.was_asked |= not worker or not servers.issuperset(addresses)
        if self._kernel_guard is not None:
            self._kernel_guard.learn_worker(_pid_of(client), worker)
            self._kernel_guard.learn_mains(addresses)
        resolved = self._sandbox.resolve(addresses, worker)
        self.told.update(resolved.values())
        if self._kernel_guard is not None:
            self._kernel_guard.learn_servers()
        return resolved

    def _note(self, refusal: refusals.Refusal, worker: str, client: _socket.socket) -> str | None:
        if self._kernel_guard is None:
            return None
        server = self._kernel_guard.note(_pid_of(client), worker, refusal)
        if server:
            self.told.add(server)
        return server


class OutageRequests:
    """Breaks and mends servers, and lists their outages in a file once there was one."""

    def __init__(self, sandbox: Sandbox, path: str) -> None:
        self._sandbox = sandbox
        self._path = path
        self._lock = threading.Lock()

    def answer(
        self, request: Mapping[str, object], begun: list[Callable[[], bool]]
    ) -> Mapping[str, object]:
        """Breaks or mends servers; returns nothing if the request is another one.

        :param begun: where to add the function that ends an outage.
        :raises ServerError: that cannot be done.
        """
        kind, broken = request.get("outage"), request.get("server")
        restarted, mended = request.get("restart"), request.get("mend")
        if isinstance(broken, str) and isinstance(kind, str) and kind in OUTAGES:
            begun.append(partial(self._end, self._sandbox.started_at(broken)._begin_outage(kind)))
            self._list()
            return {"outage": kind}
        if isinstance(restarted, str):
            self._sandbox.started_at(restarted)._restart()
            self._list()
            return {"restarted": restarted}
        if _are_strings(mended):
            return {"mended": self._end(partial(self._sandbox.mend, mended))}
        return {}

    def _end(self, end: Callable[[], bool]) -> bool:
        try:
            return end()
        finally:
            self._list()

    def _list(self) -> None:
        with self._lock:
            servers = self._sandbox.servers
            broken = {
                address.Address(server.address).place: server.outage
                for server in servers
                if server.outage
            }
            with suppress(FileNotFoundError):  # The run has ended.
                with open(f"{self._path}.new", "w") as file:
                    json.dump(broken, file)
                os.replace(file.name, self._path)


def _end(begun: list[Callable[[], bool]]) -> Mapping[str, object]:
    """Ends an outage. What keeps it from that is told at the end of the run, too."""
    try:
        return {"mended": bool(begun) and begun.pop()()}
    except SandboxError as error:
        return {"problem": str(error)}
    except OSError as error:
        return {"problem": f"the outages of the run cannot be listed: {error.strerror}"}


def _send(connection: _socket.socket, reply: Mapping[str, object], timeout: float) -> None:
    connection.settimeout(timeout)
    connection.sendall(json.dumps(reply).encode() + b"\n")


def _refusal(value: object) -> refusals.Refusal | None:
    """Returns what a process reports; None if it is none."""
    if not isinstance(value, dict) or set(value) != set(refusals.Refusal._fields):
        return None
    return refusals.Refusal(**{name: str(field) for name, field in value.items()})


def _pid_of(client: _socket.socket) -> int:
    """Returns the pid of the process that has connected: SO_PEERCRED in unix(7)."""
    credentials = client.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("=iII", credentials)[0]
    return pid


def _listening_socket(path: str) -> _socket.socket:
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # The first client needs a descriptor, too. Later ones wait for that of an earlier one.
        posix.close(os.dup(listener.fileno()))
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _are_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
