"""Control sockets that the tests serve, and clients that ask there."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox import Sandbox
from sandbox.run.control import Control


@contextmanager
def serving(path: Path) -> Iterator[Control]:
    with Sandbox(memory_mb=8) as sandbox:
        for server in sandbox.launch(1):
            server.wait()
        control = Control(sandbox, str(path))
        yield control
        control.stop()


def send(control: Control, request: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(control.path)
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The owner has read enough.
        with connection.makefile("rb") as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer


def ask(control: Control, *addresses: str, worker: str = "") -> list[str]:
    request = {"resolve": list(addresses), "worker": worker}
    answer = send(control, json.dumps(request).encode() + b"\n")["addresses"]
    return [answer[address] for address in addresses]


def servers(control: Control) -> int:
    return len(control._sandbox.servers)


def connect(control: Control) -> socket.socket:
    """Connect as a worker does: with a timeout, by which a full queue is an error at once."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    try:
        connection.connect(control.path)
    except OSError:
        connection.close()
        raise
    return connection
