"""Serves one Sandbox to the processes of a run over a Unix socket.

A request is one line of JSON on a connection of its own, and so is the answer:
``{"resolve": [ADDRESS...], "worker": NAME}`` is answered with
``{"addresses": {ADDRESS: ADDRESS...}}``, ``{"refused": {"address": ..., "alias": ..., "at": ...}}``
with ``{}``, and what cannot be done with ``{"error": REASON}``.
"""

from __future__ import annotations

import _socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import SandboxError
from ..inject import protocol, refusals

if TYPE_CHECKING:
    from typing import TypeGuard

    from .sandbox import Sandbox

# Seconds to wait for the request of a client that has connected.
REQUEST_TIMEOUT = 10.0


class Control:
    """Answers other processes at the control socket of a run, which they ask for addresses.

    :param path: where to make it: in a directory that only this user may enter.
    :raises SandboxError: it cannot be made there.
    """

    def __init__(self, sandbox: Sandbox, path: str) -> None:
        self.path = path
        self.refusals: list[refusals.Refusal] = []
        self._sandbox = sandbox
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self._socket.bind(path)
        except OSError as error:
            self._socket.close()
            raise SandboxError(
                f"the control socket cannot be made at {path}: {error}; "
                "point TMPDIR to a folder with a shorter path"
            ) from error
        self._socket.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Stops answering."""
        self._socket.shutdown(_socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                # What socket.accept() calls. It is not in typeshed.
                descriptor, _ = self._socket._accept()  # type: ignore[attr-defined]
            except OSError:
                return  # stopped
            connection = _socket.socket(fileno=descriptor)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: _socket.socket) -> None:
        import json  # Not before it is needed: `sandbox exec` is on a hot path.

        try:
            connection.settimeout(REQUEST_TIMEOUT)
            line = protocol.receive_line(connection)
            try:
                answer = self._answer(json.loads(line))
            except (ValueError, RecursionError):
                answer = {"error": f"the request is not a line of JSON: {line[:80]!r}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            pass  # The client has gone, or has not asked.
        finally:
            connection.close()

    def _answer(self, request: object) -> Mapping[str, object]:
        if isinstance(request, dict):
            addresses, worker = request.get("resolve"), request.get("worker", "")
            if _are_strings(addresses) and isinstance(worker, str):
                try:
                    return {"addresses": self._sandbox.resolve(addresses, worker)}
                except SandboxError as error:
                    return {"error": str(error)}
            refused = request.get("refused")
            if isinstance(refused, dict) and set(refused) == set(refusals.Refusal._fields):
                self.refusals.append(
                    refusals.Refusal(**{k: str(value) for k, value in refused.items()})
                )
                return {}
        return {"error": f"the request asks for nothing that is known: {str(request)[:80]}"}


def _are_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
