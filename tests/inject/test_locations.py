"""LOCATIONs of memcached aliases: their addresses, and the same form with sandbox addresses."""

from __future__ import annotations

import copy
from collections import deque, namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.django.settings import at_sandbox
from sandbox.errors import CachesError
from sandbox.inject import locations, run

from ..helpers.projects import PYMEMCACHE
from ..helpers.sources import NumberedSource

Pair = namedtuple("Pair", ("first", "second"))


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("127.0.0.1:11211", ["127.0.0.1:11211"]),
        ("127.0.0.1", ["127.0.0.1:11211"]),
        ("Cache.Example.org:11212", ["cache.example.org:11212"]),
        ("a:1;b:2", ["a:1", "b:2"]),
        ("a:1,b:2, c:3", ["a:1", "b:2", "c:3"]),
        (["a:1", "b:2"], ["a:1", "b:2"]),
        (("a:1", "b"), ["a:1", "b:11211"]),
        ([("a", 1), ["b", 2]], ["a:1", "b:2"]),
        ({"a:1"}, ["a:1"]),
        (deque(["a:1", "b"]), ["a:1", "b:11211"]),
        ("unix:/run/memcached.sock", ["unix:/run/memcached.sock"]),
        ("/run/memcached.sock", ["unix:/run/memcached.sock"]),
        ("[::1]:11212", ["[::1]:11212"]),
        ("[::1]", ["[::1]:11211"]),
        ("", ["localhost:11211"]),
        (":11212", ["localhost:11212"]),
    ],
)
def test_location_has_addresses(location: object, expected: list[str]) -> None:
    assert locations.addresses(location) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("a:1", "x:1"),
        ("A:1", "x:1"),
        ("a:1;b", "x:1;x:2"),
        ("a:1,b:11211,c:3", "x:1,x:2,c:3"),
        (["a:1", "b"], ["x:1", "x:2"]),
        (("a:1",), ("x:1",)),
        ([("a", 1)], ["x:1"]),
        ({"a:1"}, ["x:1"]),
        ({"a:1": 1}.keys(), ["x:1"]),
        (Pair("a:1", "b"), ("x:1", "x:2")),
        ([Pair("a", 1)], ["x:1"]),
        ("unix:/m", "unix:/sandbox"),
        ("/m", "/sandbox"),
        ("other:1", "other:1"),
    ],
)
def test_repointed_location_keeps_its_form(location: object, expected: object) -> None:
    resolved = {"a:1": "x:1", "b:11211": "x:2", "unix:/m": "unix:/sandbox"}
    assert locations.repointed(location, resolved) == expected


@pytest.mark.parametrize(
    ("backend", "location", "expected"),
    [
        (PYMEMCACHE, "127.0.0.1:11211", True),
        ("django.core.cache.backends.memcached.PyLibMCCache", "/run/m.sock", True),
        ("django_bmemcached.memcached.BMemcached", None, True),
        ("django_elasticache.memcached.ElastiCache", "host:11211", True),
        ("django_pylibmc.memcached.PyLibMCCache", "host", True),
        ("shop.cache.ShopCache", "127.0.0.1:11211", True),
        ("shop.cache.ShopCache", ["10.0.0.1:11211", "10.0.0.2:11211"], True),
        ("shop.cache.ShopCache", "unix:/run/m.sock", True),
        ("shop.cache.ShopCache", "[::1]:11211", True),
        ("shop.cache.ShopCache", "/var/cache/shop", False),
        ("shop.cache.ShopCache", "redis://127.0.0.1:6379", False),
        ("shop.cache.ShopCache", "shop_cache_table", False),
        ("shop.cache.ShopCache", None, False),
        ("shop.cache.ShopCache", [], False),
        ("shop.cache.ShopCache", {"10.0.0.1:11211"}, True),
        ("shop.cache.ShopCache", {"host": 1}, False),
        ("shop.cache.ShopRedisCache", "127.0.0.1:6379", False),
        ("django_redis.cache.RedisCache", "127.0.0.1:6379", False),
        ("django.core.cache.backends.redis.RedisCache", "127.0.0.1:6379", False),
        ("django.core.cache.backends.locmem.LocMemCache", "a:1", False),
        ("django.core.cache.backends.filebased.FileBasedCache", "/var/tmp/cache", False),
    ],
)
def test_backend_and_location_tell_memcached_aliases(
    backend: str, location: object, expected: bool
) -> None:
    assert locations.is_memcached({"BACKEND": backend, "LOCATION": location}) is expected


@pytest.mark.parametrize(
    ("caches", "exclude", "message"),
    [
        ([], (), r"CACHES must be a dict of aliases, but is \[\]"),
        ({"a": "memcached"}, (), "CACHES['a'] must be a dict, but is 'memcached'"),
        ({"a": {}}, (), "CACHES['a'] needs a BACKEND, the path of a class, but has None"),
        ({"a": {"BACKEND": 5}}, (), "CACHES['a'] needs a BACKEND.* but has 5"),
        (
            {"a": {"BACKEND": PYMEMCACHE, "LOCATION": 5}},
            (),
            "CACHES['a'] has the LOCATION 5: it must be an address such as '127.0.0.1:11211'",
        ),
        ({"a": {"BACKEND": PYMEMCACHE, "LOCATION": ("a", 1)}}, (), "CACHES['a'] has the LOCATION"),
        ({"a": {"BACKEND": PYMEMCACHE, "LOCATION": b"a:1"}}, (), "CACHES['a'] has the LOCATION"),
        ({"a": {"BACKEND": PYMEMCACHE, "LOCATION": {"a": 1}}}, (), "CACHES['a'] has the LOCATION"),
        ({"a": {"BACKEND": PYMEMCACHE}}, ["b"], "the alias 'b', but the aliases are 'a'"),
        ({}, ["b"], "the alias 'b', but the aliases are none"),
        ({"a": {"BACKEND": PYMEMCACHE}}, "a", "exclude must be a list of aliases, but is 'a'"),
    ],
)
def test_malformed_caches_are_an_error(caches: Any, exclude: Any, message: str) -> None:
    with pytest.raises(CachesError, match=message.replace("['a']", r"\['a'\]")):
        locations.memcached_aliases(caches, exclude)


@pytest.mark.parametrize(
    ("settings", "place", "missing"),
    [
        ({"OPTIONS": {"tls_context": object()}}, "['OPTIONS']['tls_context']", "TLS"),
        ({"OPTIONS": {"client": {"tls_context": object()}}}, "['client']['tls_context']", "TLS"),
        ({"OPTIONS": {"binary": True, "username": "me"}}, "['username']", "authentication"),
        ({"OPTIONS": {"password": "secret"}}, "['OPTIONS']['password']", "authentication"),
        ({"USERNAME": "me", "PASSWORD": "secret"}, "['USERNAME']", "authentication"),
    ],
)
def test_option_that_no_sandbox_serves_is_an_error(
    settings: dict[str, Any], place: str, missing: str
) -> None:
    caches = {"a": {"BACKEND": PYMEMCACHE, **settings}, "b": {"BACKEND": PYMEMCACHE}}
    locations.check_options(caches, ["b"], "")
    with pytest.raises(CachesError) as info:
        locations.check_options(caches, caches, "--exclude {alias}")
    message = str(info.value)
    assert message.startswith("CACHES['a'][")
    assert f"{place} is set, but a sandbox has no {missing}: take it out of" in message
    assert message.endswith("settings that tests use, or exclude the alias with --exclude a")
    assert "secret" not in message


def test_password_that_django_bmemcached_takes_from_the_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caches: dict[str, dict[str, Any]] = {
        "a": {"BACKEND": "django_bmemcached.memcached.BMemcached"},
        "b": {"BACKEND": PYMEMCACHE},
        "c": {"BACKEND": "django_bmemcached.memcached.BMemcached", "OPTIONS": {"password": ""}},
    }
    monkeypatch.setenv("MEMCACHE_USERNAME", "")
    locations.check_options(caches, caches, "")
    monkeypatch.setenv("MEMCACHE_PASSWORD", "secret")
    locations.check_options(caches, ["b", "c"], "")
    with pytest.raises(CachesError) as info:
        locations.check_options(caches, caches, "--exclude {alias}")
    assert str(info.value) == (
        "MEMCACHE_PASSWORD, with which CACHES['a'] authenticates, is set, but a sandbox has no "
        "authentication: take it out of the environment that tests use, or exclude the alias with "
        "--exclude a"
    )


@pytest.mark.parametrize(
    "options", [None, {}, {"tls_context": None, "username": "", "password": None}, "username"]
)
def test_option_without_a_value_is_none(options: object) -> None:
    caches = {"a": {"BACKEND": PYMEMCACHE, "OPTIONS": options}}
    locations.check_options(caches, ["a"], "")


def test_option_of_another_name_may_have_no_truth() -> None:
    class Ambiguous:  # as an array of NumPy
        def __bool__(self) -> bool:
            raise ValueError("the truth value is ambiguous")

    caches = {"a": {"BACKEND": PYMEMCACHE, "OPTIONS": {"weights": Ambiguous()}}}
    locations.check_options(caches, ["a"], "")


hosts = st.sampled_from(["127.0.0.1", "localhost", "Cache-1", "10.0.0.7", "[::1]", "[fe80::1]"])
ports = st.integers(1, 65535)
address = st.one_of(
    hosts,
    st.builds("{}:{}".format, hosts, ports),
    st.sampled_from(["unix:/run/a.sock", "/run/b.sock", "/run/a.sock"]),
)
location = st.one_of(
    address,
    st.lists(address, min_size=1).map(";".join),
    st.lists(address, min_size=1).map(",".join),
    st.lists(address, min_size=1).map(", ".join),
    st.lists(address, min_size=1),
    st.lists(st.one_of(address, st.tuples(hosts, ports)), min_size=1).map(tuple),
)


@given(location)
def test_each_location_can_be_repointed(location: Any) -> None:
    original = copy.deepcopy(location)
    mains = locations.addresses(location)
    distinct = list(dict.fromkeys(mains))
    resolved: dict[str, str] = {main: f"127.0.0.1:{40000 + n}" for n, main in enumerate(distinct)}
    moved = locations.repointed(location, resolved)
    assert location == original
    assert type(moved) is type(location)
    assert locations.addresses(moved) == [resolved[main] for main in mains]
    assert locations.repointed(moved, resolved) == moved


aliases = st.dictionaries(
    st.text(min_size=1),
    st.fixed_dictionaries(
        {"BACKEND": st.sampled_from([PYMEMCACHE, "shop.Cache", "django_redis.cache.RedisCache"])},
        optional={
            "LOCATION": location,
            "OPTIONS": st.dictionaries(st.text(), st.integers()),
            "KEY_PREFIX": st.text(),
            "VERSION": st.integers(),
            "TIMEOUT": st.none() | st.integers(),
            "KEY_FUNCTION": st.just(len),
        },
    ),
)


@given(aliases)
def test_repointed_caches_keep_all_but_locations(caches: dict[str, dict[str, Any]]) -> None:
    original = copy.deepcopy(caches)
    memcached = locations.memcached_aliases(caches)
    moved = at_sandbox(caches, memcached, run.Run(NumberedSource()))
    assert caches == original
    assert list(moved) == list(caches)

    def without_locations(setting: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in config.items() if key != "LOCATION"}
            for config in setting.values()
        ]

    def distinct(setting: dict[str, dict[str, Any]]) -> int:
        return len(
            {a for m in memcached for a in locations.addresses(setting[m].get("LOCATION", ""))}
        )

    assert without_locations(moved) == without_locations(caches)
    assert distinct(moved) == distinct(caches)
    assert all(moved[a] is config for a, config in caches.items() if a not in memcached)
