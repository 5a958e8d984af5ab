"""How this package talks to memcached and to the owner of a run."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from sandbox import Sandbox
from sandbox.inject import sources
from sandbox.run.control import Control

if TYPE_CHECKING:
    import pytest


def test_replaced_socket_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-socket and gevent put a class of theirs in the place of socket.socket."""

    def refuse(*_: object) -> None:
        raise AssertionError("a test may not use sockets")

    monkeypatch.setattr(socket, "socket", refuse)
    with Sandbox() as sandbox:
        (server,) = sandbox.launch(1)
        server.wait()
        control = Control(sandbox, sandbox.control_directory.socket)
        resolved = sources.SocketSource(control.path).resolve(["10.0.0.1:11211"], "")
        assert resolved == {"10.0.0.1:11211": server.address}
        server.flush()
        assert server.stats()["cmd_flush"] == "1"
        control.stop()


def test_long_request_and_answer() -> None:
    """They do not come in one piece."""
    with Sandbox() as sandbox:
        control = Control(sandbox, sandbox.control_directory.socket)
        source = sources.SocketSource(control.path)
        mains = ["10.0.0.1:11211", f"unix:/{'m' * 500_000}"]
        resolved = source.resolve(mains, "")
        assert list(resolved) == mains
        assert source.resolve(list(resolved.values()), "") == {
            server: server for server in resolved.values()
        }
        control.stop()
