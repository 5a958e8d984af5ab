"""Feeds what Hypothesis invents to CACHES and to the control socket: no traceback."""

from __future__ import annotations

import json
import tempfile
from collections import deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sandbox import Sandbox, SandboxError
from sandbox.django import settings as caches_settings
from sandbox.inject import clients, guard, hooks, locations, patches, refusals, run, workers
from sandbox.run.control import Control
from sandbox.run.summary import refused
from sandbox.server.memcached import Memcached

from ..helpers.controls import send
from ..helpers.projects import PYMEMCACHE
from ..helpers.sources import NumberedSource

Feed = TypeVar("Feed", bound=Callable[..., None])

Pair = namedtuple("Pair", ("first", "second"))

# Any character: unprintable ones, and surrogates without their other half.
any_text = st.text(st.characters())
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text, st.binary())
anything = st.recursive(
    scalars | st.sets(any_text) | st.builds(object),
    lambda children: st.one_of(
        st.lists(children),
        st.builds(Pair, children, children),
        st.dictionaries(scalars, children),
    ),
    max_leaves=8,
)

hosts = st.sampled_from(["127.0.0.1", "localhost", "[::1]", "[fe80::1%eth0]", ""]) | any_text
ports = st.one_of(
    st.integers(),
    st.integers(1, 5000).map("9".__mul__),  # longer than what int() reads
    st.from_regex(r"\d+", fullmatch=True),  # digits of any script
)
addresses = st.one_of(
    hosts,
    st.builds("{}:{}".format, hosts, ports),
    st.builds("{}{}".format, st.sampled_from(["unix:", "UNIX:", "/", " /"]), any_text),
)
servers = st.lists(addresses | st.tuples(hosts, st.integers()))
separated = st.builds(str.join, st.sampled_from([";", ",", ", "]), st.lists(addresses))
locations_of_any_kind = st.one_of(
    addresses,
    separated,
    servers,
    servers.map(tuple),
    servers.map(frozenset),
    servers.map(deque),
    st.builds(Pair, addresses, addresses),
    st.builds(Pair, hosts, st.integers()),
    st.just(Path("/run/memcached.sock")),
    anything,
)


class Ambiguous:
    """Has no truth, as an array of NumPy."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


options: st.SearchStrategy[dict[Any, Any]] = st.dictionaries(
    st.sampled_from([*locations.UNSERVED, "PASSWORD", "serde"]) | scalars, anything
) | st.builds(dict, weights=st.builds(Ambiguous))
configs = st.fixed_dictionaries(
    {"BACKEND": st.sampled_from([PYMEMCACHE, "shop.Cache"]) | any_text},
    optional={"LOCATION": locations_of_any_kind, "OPTIONS": options | anything, "TIMEOUT": scalars},
)
names = st.sampled_from(["default", "other"]) | any_text
caches_of_any_kind = st.one_of(
    st.dictionaries(names, configs, min_size=1, max_size=3),
    st.dictionaries(names, configs | anything, min_size=1, max_size=3),
    anything,
)


def caches(times: int, random_seed: int) -> str:
    """Repoint settings with CACHES of any kind: all of what is memcached's moves, or an error."""
    fed = errors = 0

    @_fed(times, random_seed)
    @given(caches_of_any_kind, st.just(set()) | st.sets(names, max_size=1), st.booleans())
    def feed(caches: Any, excluded: set[str], guards: bool) -> None:
        nonlocal fed, errors
        with _in_a_run() as made:
            made.excluded, made.guards = excluded, guards
            holder = SimpleNamespace(CACHES=caches)
            is_error = _is_error(lambda: patches._repoint(holder))
            if not is_error and isinstance(caches, Mapping):
                moved = set(made.resolved.values())
                for alias in locations.memcached_aliases(caches, excluded.intersection(caches)):
                    location = holder.CACHES[alias].get("LOCATION", "")
                    assert moved.issuperset(locations.addresses(location)), alias
            _is_error(lambda: _sandboxed(caches, made))
            made.captured = {"localhost:11211", "127.0.0.1:11211"}
            workers.of_this_worker(caches)
        fed += 1
        errors += is_error

    feed()
    return f"{fed} CACHES of any kind: {errors} errors, each of a line; no traceback"


def _sandboxed(caches: Any, made: run.Run) -> None:
    caches_settings.at_sandbox(caches, caches_settings.aliases_of(caches, []), made)


def locations_alone(times: int, random_seed: int) -> str:
    """Repoint LOCATIONs of any kind when a backend is made, as those of override_settings."""
    fed = moved = 0

    @_fed(times, random_seed)
    @given(locations_of_any_kind, st.booleans())
    def feed(location: Any, guards: bool) -> None:
        nonlocal fed, moved
        mains = locations.addresses(location)
        with _in_a_run() as made:
            made.guards, made.unclear = guards, set(mains)
            found = locations.addresses(patches._moved(location))
            assert found == [made.resolved[main] for main in mains]
            made.captured = set(found)
            assert locations.addresses(patches._moved(found)) == found
        for backend in (PYMEMCACHE, "shop.Cache", "shop.RedisCache"):
            locations.is_unclear({"BACKEND": backend, "LOCATION": location})
        fed += 1
        moved += bool(mains)

    feed()
    return f"{fed} LOCATIONs of any kind: {moved} with addresses, all moved; no traceback"


@contextmanager
def _in_a_run() -> Iterator[run.Run]:
    """Puts this process into a run without servers, and out of it, with all that it knows."""
    with ExitStack() as stack:
        for owner, name, value in [
            *((patches, "_undoing", []), (clients, "places", set()), (guard, "_guarded", {})),
            *((guard, "_ports", set()), (guard, "_captured", set())),
            *((hooks, "_watching", {}), (hooks, "_audits", True)),  # An audit hook would stay.
        ]:
            stack.enter_context(patch.object(owner, name, value))
        made = run.Run(NumberedSource())
        stack.callback(run.replace_run, run.replace_run(made))
        yield made


def _is_error(function: Callable[[], object]) -> bool:
    """Return whether a function raises an error, which must be one of a printable line."""
    from django.core.exceptions import ImproperlyConfigured

    try:
        function()
        text = ""
    except (SandboxError, ImproperlyConfigured) as error:
        text = str(error)
    assert text.isprintable()
    return bool(text)


jsonable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda children: st.lists(children) | st.dictionaries(any_text, children),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    dict.fromkeys(refusals.Refusal._fields, jsonable), optional={"more": jsonable}
)
known_requests = st.fixed_dictionaries(
    {},
    optional={
        "resolve": st.lists(addresses, max_size=3) | jsonable,
        "worker": any_text | jsonable,
        "others": any_text | jsonable,
        "refused": fields | jsonable,
        "more": jsonable,
    },
)
deep = st.builds(lambda depth: b"[" * depth + b"]" * depth, st.integers(0, 3000))
requests_of_any_kind = st.one_of(
    st.binary(),
    st.sampled_from([b"x" * 2_000_000, b"[" * 100_000]),
    deep,
    deep.map(lambda value: b'{"refused": ' + value + b"}"),
    (known_requests | jsonable).map(lambda value: json.dumps(value).encode()),
    (known_requests | jsonable).map(
        lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    ),
)


class WithoutServers(Sandbox):
    """Has addresses for servers that it does not start."""

    ports = count(1)

    def _new_server(self) -> Memcached:
        def nothing() -> None:
            pass

        server = SimpleNamespace(launch=nothing, wait=nothing, stop=nothing)
        server.address = f"127.0.0.1:{next(self.ports)}"
        return cast("Memcached", server)


def requests(times: int, random_seed: int) -> str:
    """Send requests of any kind to a control socket: each has an answer, and none is a failure."""
    fed = errors = 0

    @_fed(times, random_seed)
    @given(requests_of_any_kind, st.sampled_from([b"\n", b"", b"\nmore"]))
    def feed(request: bytes, end: bytes) -> None:
        nonlocal fed, errors
        control._sandbox = WithoutServers()
        control.refusals.clear()
        answer = send(control, request + end)
        assert set(answer) in ({"error"}, {"addresses"}, {"others"}, set()), answer
        assert "failed" not in answer.get("error", ""), answer
        assert all(line.isprintable() for line in refused(control.refusals))
        fed += 1
        errors += "error" in answer

    with tempfile.TemporaryDirectory(dir="/tmp") as folder, _in_a_run():
        control = Control(WithoutServers(), f"{folder}/control")
        feed()
        control.stop()
    return f"{fed} requests of any kind: {errors} answered by an error, none by a failure"


def _fed(times: int, random_seed: int) -> Callable[[Feed], Feed]:
    made = settings(
        max_examples=times,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    return lambda feed: seed(random_seed)(made(feed))
