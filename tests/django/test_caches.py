"""`sandboxed` for settings and `sandboxed_caches` for a conftest, on a real Django."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.core.cache import cache, caches
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, override_settings

from sandbox import OptionError, Sandbox
from sandbox.django import sandboxed, sandboxed_caches
from sandbox.inject import run
from sandbox.run.control import Control

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import wait_until_gone

PYMEMCACHE = "django.core.cache.backends.memcached.PyMemcacheCache"
PYLIBMC = "django.core.cache.backends.memcached.PyLibMCCache"
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "a:1"}


class Odd(PyMemcacheCache):
    """A backend whose path and LOCATION do not tell what it is."""


def make_key(key: str, prefix: str, version: int) -> str:
    return f"{prefix}/{version}/{key}"


FULL: dict[str, Any] = {
    "BACKEND": PYMEMCACHE,
    "LOCATION": "main:11211",
    "OPTIONS": {"no_delay": True},
    "KEY_PREFIX": "prefix",
    "VERSION": 3,
    "TIMEOUT": 17,
    "KEY_FUNCTION": make_key,
}


@pytest.fixture
def run_of_exec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """As if this process ran under `sandbox exec`."""
    with Sandbox() as sandbox:
        control = Control(sandbox, str(tmp_path / "control"))
        monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", control.path)
        monkeypatch.setattr(run, "_run", None)
        yield sandbox
        control.stop()


class TestSandboxed:
    def test_outside_a_run_caches_are_what_they_were(self) -> None:
        everything: dict[str, Any] = {"default": FULL, "other": LOCMEM}
        assert sandboxed(everything) is everything
        assert sandboxed(everything, exclude=["default"], memory_mb=8) is everything

    def test_and_nothing_is_imported(self, python: Run) -> None:
        result = python(
            "import os, sys; before = set(sys.modules)\n"
            "from sandbox.django import sandboxed\n"
            "sandboxed({})\n"
            "print(*sorted(set(sys.modules) - before - {'__future__'}))"
        )
        assert result.stdout.split() == ["sandbox", "sandbox.django"]

    def test_under_exec_each_address_is_at_its_sandbox_address(self, run_of_exec: Sandbox) -> None:
        everything: dict[str, Any] = {
            "default": FULL,
            "three": {"BACKEND": "shop.Cache", "LOCATION": ["a:1", "main:11211"]},
            "left": {**FULL, "LOCATION": "nowhere:1"},
            "other": LOCMEM,
        }
        original = copy.deepcopy(everything)
        repointed = sandboxed(everything, exclude=["left"])
        main, other = (server.address for server in run_of_exec.servers)
        assert repointed == {
            "default": {**FULL, "LOCATION": main},
            "three": {"BACKEND": "shop.Cache", "LOCATION": [other, main]},
            "left": {**FULL, "LOCATION": "nowhere:1"},
            "other": LOCMEM,
        }
        assert everything == original
        # There is a run: no servers of our own are started, and what is repointed stays.
        assert sandboxed(repointed, start=True) == {
            **repointed,
            "left": {**FULL, "LOCATION": run_of_exec.servers[-1].address},
        }
        assert len(run_of_exec.servers) == 3

    def test_started_here_each_address_has_a_server_that_lives_as_long_as_we(
        self, python: Run
    ) -> None:
        result = python(
            "from sandbox.django import sandboxed\n"
            f"backend = {PYMEMCACHE!r}\n"
            "caches = sandboxed({\n"
            "    'default': {'BACKEND': backend, 'LOCATION': 'main'},\n"
            "    'same': {'BACKEND': backend, 'LOCATION': 'main:11211', 'KEY_PREFIX': 'x'},\n"
            "    'three': {'BACKEND': backend, 'LOCATION': ['a:1', 'b:1', 'main:11211']},\n"
            "    'left': {'BACKEND': backend, 'LOCATION': 'nowhere:1'},\n"
            "}, start=True, memory_mb=8, exclude=['left'])\n"
            "from sandbox import Server\n"
            "for address in caches['three']['LOCATION']:\n"
            "    stats = Server(address).stats()\n"
            "    print(address, stats['pid'], stats['limit_maxbytes'])\n"
            "print(*(caches[alias]['LOCATION'] for alias in ('default', 'same', 'left')))\n"
        )
        *servers, aliases = result.stdout.splitlines()
        locations, pids, memory = zip(*(server.split() for server in servers), strict=True)
        assert len(set(locations)) == len(set(pids)) == 3
        assert set(memory) == {str(8 * 1024 * 1024)}
        assert aliases.split() == [locations[2], locations[2], "nowhere:1"]
        wait_until_gone(*map(int, pids))

    @pytest.mark.parametrize(
        ("malformed", "message"),
        [
            ([], r"CACHES must be a dict of aliases, but is \[\]"),
            ({"a": 5}, r"CACHES\['a'\] must be a dict, but is 5"),
            ({"a": {}}, r"CACHES\['a'\] needs a BACKEND"),
            ({"a": LOCMEM}, "exclude names the alias 'b', but the aliases are 'a'"),
        ],
    )
    def test_malformed(self, monkeypatch: pytest.MonkeyPatch, malformed: Any, message: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=message):
            sandboxed(malformed, start=True, exclude=["b"])
        monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", "/nowhere")
        with pytest.raises(ImproperlyConfigured, match=message):
            sandboxed(malformed, exclude=["b"])

    def test_bad_options(self) -> None:
        with pytest.raises(OptionError, match="memory_mb"):
            sandboxed({"default": FULL}, start=True, memory_mb=0)


@pytest.fixture
def main(main_memcached: MainMemcached):
    """A Django that is configured for a main memcached, which nobody may come near to."""
    with override_settings(
        CACHES={
            "default": {**FULL, "LOCATION": main_memcached.address},
            "same": {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address},
            "local": LOCMEM,
        }
    ):
        yield main_memcached
    main_memcached.assert_untouched()


class TestSandboxedCaches:
    def test_the_cache_api_follows(self, main: MainMemcached) -> None:
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

    def test_sessions_and_the_cache_middleware_follow(self, main: MainMemcached) -> None:
        with sandboxed_caches() as box:
            browser = Client()
            with override_settings(
                MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]
            ):
                assert browser.get("/visits/").content == b"1"
                assert browser.get("/visits/").content == b"2"
            first = browser.get("/page/").content
            assert browser.get("/page/").content == first
            box.flush()
            assert browser.get("/page/").content != first

    def test_a_connection_to_the_main_memcached_comes_back(
        self, main_memcached: MainMemcached
    ) -> None:
        with override_settings(CACHES={"default": {**FULL, "LOCATION": main_memcached.address}}):
            cache.set("key", "main")
            with sandboxed_caches():
                assert cache.get("key") is None
                cache.set("key", "sandbox")
            assert cache.get("key") == "main"

    def test_an_error_in_the_block_puts_everything_back(self, main: MainMemcached) -> None:
        before = settings.CACHES
        with pytest.raises(ZeroDivisionError), sandboxed_caches():
            raise ZeroDivisionError
        assert settings.CACHES is before

    def test_one_within_another(self, main: MainMemcached) -> None:
        with sandboxed_caches():
            cache.set("key", "outer")
            with sandboxed_caches():
                assert cache.get("key") is None
            assert cache.get("key") == "outer"

    def test_three_servers_stay_three(self) -> None:
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
    @pytest.mark.parametrize(
        "location", ["127.0.0.1:9", "/run/m.sock", "unix:/run/m.sock", "h:1;i:2"]
    )
    @pytest.mark.parametrize("backend", [PYMEMCACHE, PYLIBMC])
    def test_every_client_at_every_location(
        self, backend: str, location: str, unix_socket: bool
    ) -> None:
        if backend == PYLIBMC:
            pytest.importorskip("pylibmc")
        with override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": location}}):
            with sandboxed_caches(unix_socket=unix_socket) as box:
                cache.set_many({f"key{number}": number for number in range(20)})
                assert cache.get("key7") == 7
                assert sum(int(server.stats()["cmd_set"]) for server in box.servers) == 20
                caches.close_all()

    def test_a_subclass_is_known_by_its_class(self) -> None:
        odd = {"BACKEND": "tests.django.test_caches.Odd", "LOCATION": "somewhere"}
        with override_settings(CACHES={"default": odd}), sandboxed_caches() as box:
            assert settings.CACHES["default"]["LOCATION"] == box.servers[0].address
            assert type(caches["default"]) is Odd
            cache.set("key", "value")
            assert cache.get("key") == "value"

    def test_excluded_aliases_stay(self, main: MainMemcached) -> None:
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
    def test_errors_leave_the_settings_alone(
        self, configured: Any, options: Any, error: type[Exception], message: str
    ) -> None:
        with override_settings(CACHES=configured):
            with pytest.raises(error, match=message), sandboxed_caches(**options):
                pass
            assert settings.CACHES is configured

    def test_a_backend_that_cannot_be_imported_is_for_django_to_tell(self) -> None:
        missing = {"BACKEND": "shop.cache.ShopCache", "LOCATION": "a:1"}
        with override_settings(CACHES={"default": missing}), sandboxed_caches():
            with pytest.raises(Exception, match=r"Could not find backend 'shop.cache.ShopCache'"):
                cache.get("key")


def test_importing_the_package_loads_nothing_heavy(python: Run) -> None:
    for use in ("", "sandbox.Memcached;"):
        script = f"import sandbox, sys; {use} print(*HEAVY & set(sys.modules))"
        heavy = "HEAVY = {'click', 'psutil', 'pymemcache', 'django'}; "
        assert python(heavy + script).stdout == "\n"
