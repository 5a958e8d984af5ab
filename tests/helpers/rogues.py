"""Servers that do not answer as memcached does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sandbox.inject import protocol


@contextmanager
def rogue(answer: Callable[[str], Iterable[bytes]]) -> Iterator[str]:
    """Answer each request of each client in pieces, until the client has gone."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # The test has ended.
            with connection:
                connection.settimeout(60)
                try:
                    while request := connection.recv(1000):
                        for piece in answer(request.decode().strip()):
                            connection.sendall(piece)
                except OSError:
                    pass  # The client has gone.

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        served = pool.submit(serve)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
        served.result()


def slowly(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Return pieces with a pause after each, which is shorter than any timeout."""
    for piece in pieces:
        yield piece
        threading.Event().wait(0.01)


def counters(**values: object) -> bytes:
    """Return an answer to stats, with the counters that the summary reads."""
    names = ("get_hits", "evictions", "limit_maxbytes", "total_malloced", "total_connections")
    others = ("bytes_read", "curr_items", "bytes", "pid")
    all_values = {**dict.fromkeys((*protocol.OPERATIONS, *names, *others), 0), **values}
    lines = [f"STAT {name} {value}\r\n" for name, value in all_values.items()]
    return "".join([*lines, "END\r\n"]).encode()
