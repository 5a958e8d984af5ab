"""Inputs of all shapes: CACHES, LOCATION and the requests at a control socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

from sandbox import SandboxError
from sandbox.inject import guard, locations, patches, refusals
from sandbox.inject import run as runs
from sandbox.run.control import Control

SERVER = "127.0.0.1:1"

ADDRESSES = (
    *("127.0.0.1:11211", "main", "main:5", "MAIN:5;other:6,", "[::1]:7", "::1", "unix:/tmp/s"),
    *("/tmp/s", ":", "a:b", "unix:", "5", "a:99999999999", "\0", "unix:\0", "a b:1", "[", "%"),
)

TEXTS = st.sampled_from(ADDRESSES) | st.text(max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=5) | TEXTS
PAIRS = st.tuples(TEXTS, st.integers() | TEXTS)
LOCATIONS = LEAVES | PAIRS | st.lists(TEXTS | PAIRS | LEAVES, max_size=4) | st.sets(TEXTS)

BACKENDS = st.sampled_from(
    [
        "django.core.cache.backends.memcached.PyMemcacheCache",
        "django.core.cache.backends.locmem.LocMemCache",
        "own.Cache",
        "memcached",
        "",
    ]
)
OPTIONS = st.dictionaries(
    st.sampled_from(["tls_context", "username", "PASSWORD", "x"]) | LEAVES,
    st.dictionaries(st.sampled_from(["password", "x"]), LEAVES, max_size=2) | LEAVES,
    max_size=3,
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={"BACKEND": BACKENDS | LEAVES, "LOCATION": LOCATIONS, "OPTIONS": OPTIONS | LEAVES},
)
CACHES = st.dictionaries(st.just("default") | LEAVES, CONFIGS | LEAVES, max_size=3) | LOCATIONS

NAMES = st.sampled_from(["resolve", "worker", "others", "refused", *refusals.Refusal._fields, ""])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXTS, inner, max_size=5),
    max_leaves=8,
)
REFUSED = st.fixed_dictionaries(dict.fromkeys(refusals.Refusal._fields, JSONS))
REQUESTS = st.fixed_dictionaries(
    {}, optional={"resolve": st.lists(TEXTS) | JSONS, "worker": JSONS, "refused": REFUSED | JSONS}
)
LINES = (REQUESTS | JSONS).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50)


class Source:
    """Leads each address to one server, which is none."""

    def worker(self) -> str:
        return ""

    def resolve(self, addresses: Iterable[str], worker: str = "") -> dict[str, str]:
        addresses = list(addresses)
        assert {*map(type, (*addresses, worker))} == {str}
        return dict.fromkeys(addresses, SERVER)

    def others(self, worker: str) -> list[str]:
        return [worker.removeprefix("w")]

    def report_refusal(self, refusal: refusals.Refusal) -> None:
        assert refusal.kind in (refusals.OTHER, refusals.EXCLUDED)


def inputs(count: int, seed: int) -> str:
    """Feed values of all shapes to what reads them: nothing but errors in words comes out."""
    for values, read in ((CACHES, _caches), (LOCATIONS, _location), (LINES, _request)):
        _feed(values, read, count // 3, seed)
    return f"{count} inputs of all shapes: an answer, or an error of one line"


def _feed(
    values: st.SearchStrategy[Any], read: Callable[[Any], None], count: int, seed: int
) -> None:
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    hypothesis.seed(seed)(settings(hypothesis.given(values)(read)))()


def _caches(caches: Any) -> None:
    """Repoint CACHES as when Django loads its settings."""
    settings = SimpleNamespace(CACHES=caches)
    own = runs.Run(Source())
    own.guards, own.excluded = True, {"default"} if len(str(caches)) % 4 == 0 else set()
    outer, guarded, done = runs.replace_run(own), guard.guarded(), len(patches._undoing)
    try:
        patches._repoint(settings)
        if isinstance(caches, dict):
            assert list(settings.CACHES) == list(caches)
    except SandboxError as error:
        _assert_one_line(str(error))
        assert settings.CACHES is caches
    finally:
        del patches._undoing[done:]
        guard.restore(guarded)
        runs.replace_run(outer)


def _location(location: Any) -> None:
    """Put servers in the place of the addresses of a LOCATION."""
    addresses = locations.addresses(location)
    repointed = locations.repointed(location, dict.fromkeys(addresses, SERVER))
    assert locations.addresses(repointed) == [SERVER] * len(addresses)
    assert type(repointed) is type(location)


def _request(line: bytes) -> None:
    """Answer a request at a control socket."""
    control = object.__new__(Control)
    control._sandbox, control.refusals = Source(), []  # type: ignore[assignment]
    answer = control._reply(line)
    assert set(answer) in ({"error"}, {"addresses"}, {"others"}, set())
    if "error" in answer:
        _assert_one_line(str(answer["error"]))
        assert "the process that owns the sandbox failed" not in str(answer["error"])
    json.dumps(answer)
    for refusal in control.refusals:
        assert {*map(type, refusal)} == {str}


def _assert_one_line(text: str) -> None:
    assert text
    assert "\n" not in text
