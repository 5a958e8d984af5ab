"""Sets up what `sandbox install` finds: data folders, and archives that fail."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sandbox.server import apt
from sandbox.server.binary import find_elsewhere

SYSTEM_MEMCACHED = find_elsewhere() or ""

# Without them, there is nothing to be installed from.
needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="there is no apt here"
)


def install_by_hand(
    data: Path, suite: str, version: str = "1.6.99", with_libraries: bool = False
) -> Path:
    """Make what `sandbox install` makes, of the system's memcached.

    :param with_libraries: have it run through the loader.
    :returns: its folder.
    """
    folder = data / f".{suite}-by_hand0"
    (folder / "bin").mkdir(parents=True)
    executable = folder / "bin/memcached"
    shutil.copy(SYSTEM_MEMCACHED, executable)
    target = "bin/memcached"
    if with_libraries:
        (folder / "lib").mkdir()
        loader = apt.LOADER.search(executable.read_bytes())
        if loader is None:
            pytest.skip("this machine's memcached is no program with a loader")
        target = loader[0].decode()
    (folder / "memcached").symlink_to(target)
    (folder / "version").write_text(f"{version} {version}-1\n")
    (data / suite).symlink_to(folder.name)
    return folder


def closed_port() -> str:
    """Return the address of a proxy that is not there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def garbage_proxy() -> Iterator[str]:
    """Answer each request with a text that is no archive, as a portal of a network does."""

    class Garbage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"log in!")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Garbage) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def silent_proxy() -> Iterator[tuple[str, socket.socket]]:
    """Listen without an answer: who accepts a connection knows that apt is at work."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", listener


def proxied(proxy: str) -> dict[str, str]:
    """Return variables that have apt use a proxy, whatever protocol its sources name."""
    return {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}
