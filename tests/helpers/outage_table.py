"""Observes clients while their server is broken: `python -m tests.helpers.outage_table`.

The command prints a table in Markdown. It takes a minute and a half: many clients wait for seconds.
libmc also writes an error to stderr.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import bmemcached
import memcache
import pymemcache
from pymemcache.client.hash import HashClient

from sandbox import Memcached
from sandbox.inject import backends

from .processes import eventually

if TYPE_CHECKING:
    from django.core.cache.backends.memcached import BaseMemcachedCache

T = TypeVar("T")

VALUE = "value"

# Seconds of the timeout that clients are given, for a server that hangs.
TIMEOUT = 0.1

# Seconds to wait for a client of the table: to its own timeout, and to its recovery.
TABLE_PATIENCE = 6.0

# Seconds that an observation may take. Clients take a server for dead for a second or more.
TIMELY = 0.9

# pylibmc's documentation recommends these for failover.
FAILOVER = {"ketama": True, "remove_failed": 1, "retry_timeout": 1, "dead_timeout": 60}


class Client(NamedTuple):
    """Calls a client for one key."""

    get: Callable[[str], object]
    set: Callable[[str, str], object]


# Makes a client of servers, which is closed later. The last argument is its timeout in seconds, or
# None for its default.
Make = Callable[[Sequence[str], ExitStack, float | None], Client]


class Kind(NamedTuple):
    """Describes a client: how to make it, the module it needs, and the number of its servers."""

    make: Make
    module: str
    servers: int = 1


class InOutages(NamedTuple):
    """Lists outcomes of a client: the repr() of a result, or the name of an exception."""

    gets_when_down: tuple[str, str, str]
    set_when_down: str
    get_when_hung: str  # with a timeout
    when_full: tuple[str, str]  # a set, and the get that follows


class Wait(NamedTuple):
    """Describes the end of a get whose server hung."""

    outcome: str
    seconds: float
    was_mended: bool  # before the get had ended


def _pymemcache_client(
    addresses: Sequence[str], closing: ExitStack, timeout: float | None
) -> Client:
    (address,) = addresses
    client = pymemcache.Client(address, timeout=timeout)
    closing.callback(client.close)
    return Client(client.get, client.set)


def _hash_client(**options: Any) -> Make:
    def make(addresses: Sequence[str], closing: ExitStack, timeout: float | None) -> Client:
        client = HashClient([*addresses], timeout=timeout, **options)
        closing.callback(client.close)
        return Client(client.get, client.set)

    return make


def _pylibmc_client(behaviors: dict[str, Any] | None = None, **options: Any) -> Make:
    def make(addresses: Sequence[str], closing: ExitStack, timeout: float | None) -> Client:
        client = import_module("pylibmc").Client(
            [*addresses], behaviors={**(behaviors or {}), **_pylibmc_timeout(timeout)}, **options
        )
        closing.callback(client.disconnect_all)
        return Client(client.get, client.set)

    return make


def _pylibmc_timeout(timeout: float | None) -> dict[str, int]:
    """Return the behavior that bounds a get. `receive_timeout` does not: libmemcached polls."""
    return {} if timeout is None else {"_poll_timeout": int(timeout * 1000)}


def _python_memcached(
    addresses: Sequence[str], closing: ExitStack, timeout: float | None
) -> Client:
    client = memcache.Client([*addresses], **_socket_timeout(timeout))
    closing.callback(client.disconnect_all)
    return Client(client.get, client.set)


def _bmemcached(addresses: Sequence[str], closing: ExitStack, timeout: float | None) -> Client:
    client = bmemcached.Client([*addresses], **_socket_timeout(timeout))
    closing.callback(client.disconnect_all)
    return Client(client.get, client.set)


def _socket_timeout(timeout: float | None) -> dict[str, float]:
    return {} if timeout is None else {"socket_timeout": timeout}


def _libmc(addresses: Sequence[str], closing: ExitStack, timeout: float | None) -> Client:
    libmc = import_module("libmc")
    client = libmc.Client([*addresses])
    closing.callback(client.quit)
    if timeout is not None:
        client.config(libmc.MC_POLL_TIMEOUT, int(timeout * 1000))
    return Client(client.get, client.set)


def _django_pymemcache(
    addresses: Sequence[str], closing: ExitStack, timeout: float | None
) -> Client:
    from django.core.cache.backends.memcached import PyMemcacheCache

    options = {} if timeout is None else {"timeout": timeout}
    return _django(PyMemcacheCache([*addresses], {"OPTIONS": options}), closing)


def _django_pylibmc(addresses: Sequence[str], closing: ExitStack, timeout: float | None) -> Client:
    from django.core.cache.backends.memcached import PyLibMCCache

    options = {"behaviors": _pylibmc_timeout(timeout)}
    return _django(PyLibMCCache([*addresses], {"OPTIONS": options}), closing)


def _django(cache: BaseMemcachedCache, closing: ExitStack) -> Client:
    backends.known.pop(cache, None)  # No outage gives it a new client.
    closing.callback(cache.close)
    return Client(cache.get, cache.set)


KINDS = {
    "pymemcache Client": Kind(_pymemcache_client, "pymemcache"),
    "pymemcache HashClient": Kind(_hash_client(), "pymemcache"),
    "pymemcache HashClient, ignore_exc": Kind(_hash_client(ignore_exc=True), "pymemcache"),
    "pymemcache HashClient, 3 servers": Kind(_hash_client(), "pymemcache", 3),
    "pylibmc": Kind(_pylibmc_client(), "pylibmc"),
    "pylibmc, binary": Kind(_pylibmc_client(binary=True), "pylibmc"),
    "pylibmc, failover, 3 servers": Kind(_pylibmc_client(FAILOVER), "pylibmc", 3),
    "Django PyMemcacheCache": Kind(_django_pymemcache, "pymemcache"),
    "Django PyLibMCCache": Kind(_django_pylibmc, "pylibmc"),
    "python-memcached": Kind(_python_memcached, "memcache"),
    "bmemcached": Kind(_bmemcached, "bmemcached"),
    "libmc": Kind(_libmc, "libmc"),
}


def outcome(call: Callable[..., object], *arguments: str) -> str:
    """Return the repr() of the result of a call, or the name of its exception."""
    try:
        return repr(call(*arguments))
    except Exception as error:  # noqa: BLE001 - any client, any error
        name, module = type(error).__name__, type(error).__module__.split(".")[0].lstrip("_")
        if module == "builtins":
            return name
        # pylibmc has no class of its own for each error of libmemcached.
        number = re.match(r"error (\d+)", str(error)) if name == "Error" else None
        return f"{module}.{name}" + (f" {number[1]}" if number else "")


def works(client: Client, key: str) -> bool:
    """Return whether a client gets what it sets."""
    outcome(client.set, key, VALUE)
    return outcome(client.get, key) in (repr(VALUE), repr(VALUE.encode()))


class Setup:
    """Starts servers for a kind of client. The first one is the one to break."""

    def __init__(self, kind: Kind, closing: ExitStack) -> None:
        self._kind = kind
        self._servers = [closing.enter_context(Memcached()) for _ in range(kind.servers)]
        self.server = self._servers[0]
        key = eventually(self._find_key)
        assert key is not None
        self.key = key

    def make(self, closing: ExitStack, timeout: float | None = None) -> Client:
        """Return a client that is closed later."""
        return self._kind.make([server.address for server in self._servers], closing, timeout)

    def connected(self, closing: ExitStack, timeout: float | None = None) -> Client:
        """Return a client that has used its connection to the server that is to be broken."""

        def try_one() -> Client | None:
            with ExitStack() as stack:
                client = self.make(stack, timeout)
                if not works(client, self.key):  # Some wait for milliseconds only.
                    return None
                closing.push(stack.pop_all())
                return client

        client = eventually(try_one)
        assert client is not None
        return client

    def _find_key(self) -> str | None:
        """Return a key that the client keeps on the first server."""
        with ExitStack() as stack:
            client = self.make(stack)
            for number in range(100):
                key = f"key{number}"
                if works(client, key) and self._has(key):
                    return key
        return None

    def _has(self, key: str) -> bool:
        return any(item.key.removeprefix(":1:") == key for item in self.server.items())


def _timely(observe: Callable[[], T]) -> T:
    """Observe again if it took too long: clients look at the clock, and a machine may be paused."""
    for _ in range(20):
        began = time.monotonic()
        observed = observe()
        if time.monotonic() - began < TIMELY:
            return observed
    raise AssertionError(f"this machine is too slow to observe a client within {TIMELY} s")


def observe(kind: Kind) -> InOutages:
    """Return the outcomes in each kind of outage. The client has a timeout only in `hung`."""
    with ExitStack() as closing:
        setup = Setup(kind, closing)
        gets, set_when_down = _timely(lambda: _observe_down(setup))
        hung = _observe_timeout(setup)
        full = _timely(lambda: _observe_full(setup))
        return InOutages(gets, set_when_down, hung, full)


def _observe_down(setup: Setup) -> tuple[tuple[str, str, str], str]:
    with ExitStack() as closing:
        client = setup.connected(closing)
        with setup.server.down():
            await_cut(setup.server)
            first, second, third = (outcome(client.get, setup.key) for _ in range(3))
            return (first, second, third), outcome(client.set, setup.key, VALUE)


def await_cut(server: Memcached) -> None:
    """Wait until the kernel has cut this end of all connections to a server, too."""
    ends = re.compile(rf"(?m)^ *\d+: [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:{server.port:04X} 01 ")
    eventually(lambda: not ends.search(Path("/proc/net/tcp").read_text()))


def _observe_timeout(setup: Setup) -> str:
    """Return the outcome of a get while the server hangs, for a client with a timeout.

    The client is connected: a new one of pylibmc returns None, as if the key were missing.
    """
    with ExitStack() as closing:
        client = setup.connected(closing, TIMEOUT)
        with setup.server.hung():
            return outcome(client.get, setup.key)


def _observe_full(setup: Setup) -> tuple[str, str]:
    with setup.server.full(), ExitStack() as closing:
        client = setup.make(closing)
        return outcome(client.set, setup.key, VALUE), outcome(client.get, setup.key)


def observe_wait(kind: Kind, patience: float) -> Wait:
    """Return the end of a get whose server hangs, for a client with its defaults.

    :param patience: seconds after which the server is mended.
    """
    with ExitStack() as closing:
        setup = Setup(kind, closing)
        if patience < TIMELY:
            return _timely(lambda: _observe_wait(setup, patience))
        return _observe_wait(setup, patience)


def _observe_wait(setup: Setup, patience: float) -> Wait:
    is_connected, is_hung = threading.Event(), threading.Event()
    ended: list[tuple[str, float]] = []

    def get() -> None:  # The connection belongs to this thread, as that of bmemcached does.
        with ExitStack() as closing:
            client = setup.connected(closing)
            is_connected.set()
            is_hung.wait()
            began = time.monotonic()
            got = outcome(client.get, setup.key)
            ended.append((got, time.monotonic() - began))

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    is_connected.wait()
    with setup.server.hung():
        is_hung.set()
        thread.join(patience)
        was_mended = not ended
    thread.join()
    (got, seconds), *_ = ended
    return Wait(got, seconds, was_mended)


def observe_recovery(kind: Kind, patience: float) -> float | None:
    """Return how many seconds after an outage a client works again, or None if it does not.

    The client is used all the time. 0 means that it works at once.
    """
    with ExitStack() as closing:
        setup = Setup(kind, closing)
        client, works_at_once = mended(setup, closing)
        if works_at_once:
            return 0
        return _seconds_until_it_works(client, setup.key, patience)


def mended(setup: Setup, closing: ExitStack) -> tuple[Client, bool]:
    """Return a client whose server was down, and whether it worked at once afterwards."""

    def mend() -> tuple[Client, bool]:
        client = setup.connected(closing)
        with setup.server.down():
            await_cut(setup.server)
            for _ in range(3):
                outcome(client.get, setup.key)
        return client, works(client, setup.key)

    return _timely(mend)


def observe_failover(kind: Kind, patience: float) -> float | None:
    """Return after how many seconds of an outage a client uses its other servers, or None."""
    with ExitStack() as closing:
        setup = Setup(kind, closing)
        client = setup.connected(closing)
        with setup.server.down():
            return _seconds_until_it_works(client, setup.key, patience)


def _seconds_until_it_works(client: Client, key: str, patience: float) -> float | None:
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < patience:
        if works(client, key):
            return seconds
        time.sleep(0.05)
    return None


def _duration(seconds: float | None) -> str:
    """Return a class of durations, which is the same each time."""
    if seconds is None:
        return f"not within {TABLE_PATIENCE:g} s"
    classes = {0.3: "at once", 1.6: "about 1 s", 3.5: "2 to 3 s", 6: "4 to 5 s"}
    return next(name for most, name in classes.items() if seconds < most)


def _cells(kind: Kind) -> list[str]:
    """Return the cells of a client's row, but for its name."""
    first, *later = (seen := observe(kind)).gets_when_down
    wait = observe_wait(kind, TABLE_PATIENCE)
    own = "waits until mended" if wait.was_mended else f"{wait.outcome} after {wait.seconds:.1f} s"
    is_lost = seen.when_full[0] == "True" and VALUE not in seen.when_full[1]
    return [
        first,
        later[0] if later[0] == later[1] else ", then ".join(later),
        seen.set_when_down,
        _duration(observe_failover(kind, TABLE_PATIENCE)) if kind.servers > 1 else "",
        own,
        seen.get_when_hung,
        f"{seen.when_full[0]}, but lost" if is_lost else seen.when_full[0],
        _duration(observe_recovery(kind, TABLE_PATIENCE)),
    ]


HEADINGS = (
    "client",
    "down: first get",
    "later gets",
    "set",
    "other servers used",
    "hung: get, by default",
    f"get, timeout {TIMEOUT:g} s",
    "full: set",
    "works after `down`",
)


def _is_installed(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    from django.conf import settings

    settings.configure()
    _print_row(HEADINGS)
    _print_row(["---"] * len(HEADINGS))
    for name, kind in KINDS.items():
        if _is_installed(kind.module):
            _print_row([name, *_cells(kind)])


if __name__ == "__main__":
    main()
