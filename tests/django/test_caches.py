"""`sandboxed_caches` gives a configured Django caches of its own, and the old ones back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.core.cache import cache, caches
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, override_settings

from sandbox import OptionError
from sandbox.django import sandboxed_caches

from ..helpers.aliases import FULL, LOCMEM
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import PYMEMCACHE

PYLIBMC = "django.core.cache.backends.memcached.PyLibMCCache"


class Odd(PyMemcacheCache):
    """A backend whose path and LOCATION do not tell what it is."""


@pytest.fixture
def main(main_memcached: MainMemcached) -> Iterator[MainMemcached]:
    """Configures Django for a main memcached, to which no test may connect."""
    with override_settings(
        CACHES={
            "default": {**FULL, "LOCATION": main_memcached.address},
            "same": {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address},
            "local": LOCMEM,
        }
    ):
        yield main_memcached
    main_memcached.assert_untouched()


def test_cache_api_follows_the_sandbox(main: MainMemcached) -> None:
    before = settings.CACHES
    with sandboxed_caches(memory_mb=8) as box:
        (server,) = box.servers
        assert {
            "default": {**FULL, "LOCATION": server.address},
            "same": {"BACKEND": PYMEMCACHE, "LOCATION": server.address},
            "local": LOCMEM,
        } == settings.CACHES
        cache.set("key", "value")
        assert caches["default"].get("key") == "value"
        assert caches["same"].get("prefix/3/key", version=1) is None
        assert server.stats()["cmd_set"] == "1"
        assert server.stats()["limit_maxbytes"] == str(8 * 1024 * 1024)
        pid = server.pid
        box.flush()
        assert cache.get("key") is None
    assert settings.CACHES is before
    assert not psutil.pid_exists(pid)


def test_sessions_and_cache_middleware_follow_the_sandbox(main: MainMemcached) -> None:
    with sandboxed_caches() as box:
        browser = Client()
        with override_settings(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]):
            assert browser.get("/visits/").content == b"1"
            assert browser.get("/visits/").content == b"2"
        first = browser.get("/page/").content
        assert browser.get("/page/").content == first
        box.flush()
        assert browser.get("/page/").content != first


def test_main_memcached_is_back_after_the_block(main_memcached: MainMemcached) -> None:
    with override_settings(CACHES={"default": {**FULL, "LOCATION": main_memcached.address}}):
        cache.set("key", "main")
        with sandboxed_caches():
            assert cache.get("key") is None
            cache.set("key", "sandbox")
        assert cache.get("key") == "main"


def test_error_in_the_block_restores_the_settings(main: MainMemcached) -> None:
    before = settings.CACHES
    with pytest.raises(ZeroDivisionError), sandboxed_caches():
        raise ZeroDivisionError
    assert settings.CACHES is before


def test_inner_block_has_caches_of_its_own(main: MainMemcached) -> None:
    with sandboxed_caches():
        cache.set("key", "outer")
        with sandboxed_caches():
            assert cache.get("key") is None
        assert cache.get("key") == "outer"


def test_alias_of_three_servers_still_has_three() -> None:
    location = ["a:1", "b:1", "c:1"]
    with override_settings(CACHES={"default": {"BACKEND": PYMEMCACHE, "LOCATION": location}}):
        with sandboxed_caches() as box:
            for number in range(60):
                cache.set(f"key{number}", number)
            assert all(int(server.stats()["cmd_set"]) for server in box.servers)
            assert settings.CACHES["default"]["LOCATION"] == [s.address for s in box.servers]
            box.flush()
            assert cache.get_many([f"key{number}" for number in range(60)]) == {}


@pytest.mark.parametrize("unix_socket", [False, True])
@pytest.mark.parametrize("location", ["127.0.0.1:9", "/run/m.sock", "unix:/run/m.sock", "h:1;i:2"])
@pytest.mark.parametrize("backend", [PYMEMCACHE, PYLIBMC])
def test_each_client_works_at_each_location(backend: str, location: str, unix_socket: bool) -> None:
    if backend == PYLIBMC:
        pytest.importorskip("pylibmc")
    with override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": location}}):
        with sandboxed_caches(unix_socket=unix_socket) as box:
            cache.set_many({f"key{number}": number for number in range(20)})
            assert cache.get("key7") == 7
            assert sum(int(server.stats()["cmd_set"]) for server in box.servers) == 20
            caches.close_all()


def test_subclass_of_a_memcached_backend_is_repointed() -> None:
    odd = {"BACKEND": "tests.django.test_caches.Odd", "LOCATION": "somewhere"}
    with override_settings(CACHES={"default": odd}), sandboxed_caches() as box:
        assert settings.CACHES["default"]["LOCATION"] == box.servers[0].address
        assert type(caches["default"]) is Odd
        cache.set("key", "value")
        assert cache.get("key") == "value"


def test_excluded_alias_stays(main: MainMemcached) -> None:
    with sandboxed_caches(exclude=["same"]):
        assert settings.CACHES["same"]["LOCATION"] == main.address


@pytest.mark.parametrize(
    ("configured", "options", "error", "message"),
    [
        ({"default": FULL}, {"exclude": ["x"]}, ImproperlyConfigured, "names the alias 'x'"),
        (
            {"default": LOCMEM},
            {},
            ImproperlyConfigured,
            "no memcached alias to give a sandbox: 'd",
        ),
        ({"default": {}}, {}, ImproperlyConfigured, "needs a BACKEND"),
        ({"default": FULL}, {"memory_mb": 1}, OptionError, "at least 2 MB"),
    ],
)
def test_error_at_the_start_leaves_the_settings_as_they_are(
    configured: Any, options: Any, error: type[Exception], message: str
) -> None:
    with override_settings(CACHES=configured):
        with pytest.raises(error, match=message), sandboxed_caches(**options):
            pass
        assert settings.CACHES is configured


def test_backend_that_cannot_be_imported_is_an_error_of_django() -> None:
    missing = {"BACKEND": "shop.cache.ShopCache", "LOCATION": "a:1"}
    with override_settings(CACHES={"default": missing}), sandboxed_caches():
        with pytest.raises(Exception, match=r"Could not find backend 'shop.cache.ShopCache'"):
            cache.get("key")
