"""Real clients while their server is broken, and afterwards.

`python -m tests.helpers.outage_table` prints the expected values as a table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import memcache
import pytest

from ..helpers.outage_table import (
    KINDS,
    InOutages,
    Kind,
    Setup,
    mended,
    observe,
    observe_wait,
    works,
)
from ..helpers.processes import PATIENCE, eventually

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a port be held"),
    pytest.mark.slow,
]

CLOSED = "pymemcache.MemcacheUnexpectedCloseError"
REFUSED = "ConnectionRefusedError"
LOST = ("True", "None")  # By default pymemcache asks for no answer to a set.
DOWN = "pylibmc.ServerDown"
TIMED_OUT = "pylibmc.Error 31"
NO_MEMORY = "pylibmc.Error 48"

EXPECTED = {
    "pymemcache Client": InOutages((CLOSED, REFUSED, REFUSED), REFUSED, "TimeoutError", LOST),
    "pymemcache HashClient": InOutages((CLOSED, REFUSED, "None"), "False", "TimeoutError", LOST),
    "pymemcache HashClient, ignore_exc": InOutages(("None",) * 3, "False", "None", LOST),
    "pymemcache HashClient, 3 servers": InOutages(
        (CLOSED, REFUSED, "None"), "False", "TimeoutError", LOST
    ),
    "pylibmc": InOutages(
        ("pylibmc.ConnectionError", DOWN, DOWN), DOWN, TIMED_OUT, (NO_MEMORY, "None")
    ),
    # After an error in answer to a set it takes the server for dead.
    "pylibmc, binary": InOutages(
        ("pylibmc.ConnectionError", DOWN, DOWN), DOWN, TIMED_OUT, ("False", DOWN)
    ),
    # The third get is the first one of another server.
    "pylibmc, failover, 3 servers": InOutages(
        ("pylibmc.ConnectionError", "pylibmc.ServerDead", "None"),
        "True",
        TIMED_OUT,
        (NO_MEMORY, "None"),
    ),
    "Django PyMemcacheCache": InOutages(
        (CLOSED, REFUSED, "None"),
        "None",
        "TimeoutError",
        ("pymemcache.MemcacheServerError", "None"),
    ),
    "Django PyLibMCCache": InOutages(
        ("pylibmc.ConnectionError", DOWN, DOWN), DOWN, TIMED_OUT, (NO_MEMORY, "None")
    ),
    "python-memcached": InOutages(("None",) * 3, "0", "None", ("False", "None")),
    "bmemcached": InOutages(
        ("None",) * 3, "False", "None", ("bmemcached.MemcachedException", "None")
    ),
    "libmc": InOutages(("None",) * 3, "False", "None", ("False", "None")),
}

# How a get of a server that hangs ends by default, and after how many seconds. All others wait for
# ever.
OWN_TIMEOUTS = {
    "pylibmc": (TIMED_OUT, 5),
    "pylibmc, binary": (TIMED_OUT, 5),
    "pylibmc, failover, 3 servers": (TIMED_OUT, 5),
    "Django PyLibMCCache": (TIMED_OUT, 5),
    "python-memcached": ("None", 3),
    "bmemcached": ("None", 3),
    "libmc": ("None", 0.3),
}

# The failover client goes on with its other servers.
WORK_AT_ONCE = {"pymemcache Client", "pylibmc, failover, 3 servers"}

# Seconds that python-memcached takes a server for dead.
DEAD_RETRY = 30


def kind_named(name: str) -> Kind:
    """Return a kind of client, unless it is not installed."""
    pytest.importorskip(KINDS[name].module)
    return KINDS[name]


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


def test_each_client_of_the_table_has_expected_values() -> None:
    assert EXPECTED.keys() == KINDS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_client_of_a_broken_server(name: str) -> None:
    assert observe(kind_named(name)) == EXPECTED[name]


# libmc gives up too soon.
@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "libmc"])
def test_client_of_a_hung_server_gets_its_answer_afterwards(name: str) -> None:
    wait = observe_wait(kind_named(name), 0.1)
    assert wait.was_mended
    is_bytes = name.startswith("pymemcache")
    assert wait.outcome == ("b'value'" if is_bytes else "'value'")


@pytest.mark.parametrize("name", ["pylibmc", "python-memcached", "libmc"])  # one of each kind
def test_client_of_a_hung_server_gives_up_by_default(name: str) -> None:
    expected, seconds = OWN_TIMEOUTS[name]
    wait = observe_wait(kind_named(name), PATIENCE)
    assert (wait.outcome, wait.was_mended) == (expected, False)
    assert wait.seconds > 0.9 * seconds


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "python-memcached"])
def test_client_works_after_its_server_was_down(name: str, closing: ExitStack) -> None:
    setup = Setup(kind_named(name), closing)
    client, worked_at_once = mended(setup, closing)
    assert worked_at_once == (name in WORK_AT_ONCE)

    def works_now() -> bool:
        if name == "pylibmc, binary":
            time.sleep(4)  # Each attempt within 3 seconds of the last one begins them anew.
        return works(client, setup.key)

    eventually(works_now)


def test_python_memcached_works_half_a_minute_after_its_server_was_down(
    closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(memcache, "time", clock)
    setup = Setup(KINDS["python-memcached"], closing)
    client, worked_at_once = mended(setup, closing)
    assert not worked_at_once
    now += DEAD_RETRY - 1
    assert not works(client, setup.key)
    now += 2
    assert works(client, setup.key)


def test_hash_client_uses_other_servers_within_a_long_outage(closing: ExitStack) -> None:
    """After two retries, each of which has to be a second after the last failure."""
    setup = Setup(KINDS["pymemcache HashClient, 3 servers"], closing)
    client = setup.connected(closing)
    with setup.server.down():
        assert not works(client, setup.key)
        eventually(lambda: works(client, setup.key))
    # It stays with them.
    assert works(client, setup.key)
    assert setup.server.stats()["curr_items"] == "0"


def test_new_client_of_pylibmc_misses_all_keys_of_a_hung_server(closing: ExitStack) -> None:
    """A connected client raises an error in that case."""
    setup = Setup(kind_named("pylibmc"), closing)
    with setup.server.hung():
        assert setup.make(closing, 0.1).get(setup.key) is None
