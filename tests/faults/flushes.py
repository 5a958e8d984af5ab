"""Flushes servers while clients have just written to them, and looks for what is left."""

from __future__ import annotations

import random
import socket
import time
from contextlib import ExitStack, closing

from sandbox import Memcached
from sandbox.inject import address, emptying, guard

# Keys that a client sends at once. memcached serves 20 commands of a connection by default.
BURSTS = (1, 2, 19, 21, 100, 1000, 5000)
WEIGHTS = (8, 8, 8, 8, 8, 2, 1)

# Bytes of values.
SIZES = [int(1.3**n) for n in range(30)]

# Flushes between two looks at all items.
LOOK = 50


def flushes(count: int, seed: int, sees_threads: bool) -> str:
    """Flush servers under mixed load: by TCP and by Unix sockets, with one thread and with more.

    :param sees_threads: by the road that looks at the server's threads, which is exact with any
        number of them.
    """
    if sees_threads and not _threads_shown():
        return "no flush of servers seen at rest: their threads are not shown here"
    chance = random.Random(seed)
    servers = [
        (unix, threads) for unix in (False, True) for threads in ([1, 4] if sees_threads else [1])
    ]
    left = 0
    for unix, threads in servers:
        with (
            Memcached(unix_socket=unix, threads=threads) as server,
            ExitStack() as stack,
        ):
            guard.undelay([server.address])
            emptier = emptying.Emptier(5, sees_threads)
            stack.callback(emptier.close)
            clients = [stack.enter_context(_client(server.address)) for _ in range(3)]
            for number in range(count // len(servers)):
                last = _load(chance, server.address, clients, number)
                restless = emptier.empty([server.address])
                assert not restless, "the server did not come to rest"
                left += _left(clients[0], last)
                if number % LOOK == 0:
                    time.sleep(0.05)  # for what may still be under way
                    left += [item.key for item in server.items()] != ["after"]
            assert emptier.shows_threads(server.address) is sees_threads
    assert not left, f"{left} items survived a flush"
    road = "seen at rest" if sees_threads else "asked"
    return f"{count} flushes of servers that were {road}: nothing left"


def _threads_shown() -> bool:
    with Memcached() as server, closing(emptying.Emptier(5)) as emptier:
        return emptier.shows_threads(server.address)


def _client(server: str) -> socket.socket:
    peer = address.Address(server).peer
    client = socket.socket(socket.AF_UNIX if isinstance(peer, str) else socket.AF_INET)
    client.connect(peer)
    return client


def _load(
    chance: random.Random, server: str, clients: list[socket.socket], number: int
) -> list[str]:
    """Send sets that are not answered; return the last keys of each client."""
    last = []
    for client in (*clients, _client(server)):
        keys = [f"{number}-{client.fileno()}-{n}" for n in range(*chance.choices(BURSTS, WEIGHTS))]
        # Each size has lists of its own, which memcached from 1.6.25 on walks to flush.
        sizes = SIZES if len(keys) <= 100 else [1]
        values = ["x" * chance.choice(sizes) for _ in keys]
        sets = [
            f"set {key} 0 0 {len(value)} noreply\r\n{value}\r\n".encode()
            for key, value in zip(keys, values, strict=True)
        ]
        # Thousands of small writes overflow the server's socket; the kernel sends them again after
        # a while. Hence they are one write, as that of set_many().
        for part in sets if len(sets) <= 100 else [b"".join(sets)]:
            client.sendall(part)
        last += keys[-100:]
        if client not in clients:
            client.close()
        elif chance.random() < 0.3:
            # A read moves an item in its list.
            client.sendall(f"get {' '.join(chance.sample(last, len(last)))}\r\n".encode())
            _answer(client)
    return last


def _left(client: socket.socket, keys: list[str]) -> int:
    """Return how many keys are left; what is set after the flush must be there."""
    client.sendall(f"set after 0 0 1\r\n1\r\nget after {' '.join(keys)}\r\n".encode())
    answer = _answer(client)
    assert b"VALUE after 0 1" in answer, "what was set after the flush is gone"
    return answer.count(b"VALUE ") - 1


def _answer(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"END\r\n"):
        answer += client.recv(65536)
    return answer
