"""A run of this process: what it changes, and that all is restored afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings, Settings, UserSettingsHolder, settings
from django.core.cache import cache, caches
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.test import SimpleTestCase, override_settings
from django.test.signals import setting_changed

from sandbox import (
    BinaryError,
    MainMemcachedRefused,
    Memcached,
    OptionError,
    RunError,
    StartError,
)
from sandbox.inject import run
from sandbox.run.local import local_source, sandbox_run

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import eventually
from ..helpers.projects import PYMEMCACHE


def everything() -> dict[str, Any]:
    """Return what a run may change in this process."""
    return {
        "environ": dict(os.environ),
        "meta_path": [*sys.meta_path],
        "path": [*sys.path],
        "run": run.current_run_or_none(),
        "settings": settings.CACHES,
        "patched": [
            Settings.__init__,
            LazySettings.configure,
            UserSettingsHolder.__setattr__,
            BaseMemcachedCache.__init__,
            unittest.TestCase.__call__,
            unittest.TestSuite.run,
            SimpleTestCase.__call__,
        ],
    }


@pytest.fixture
def main(main_memcached: MainMemcached) -> Iterator[MainMemcached]:
    """A Django that is configured for a main memcached."""
    location = {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address}
    with override_settings(CACHES={"default": location}):
        yield main_memcached


def test_configured_django_is_repointed_and_restored(main: MainMemcached) -> None:
    before = everything()
    with sandbox_run() as entered:
        assert settings.CACHES["default"]["LOCATION"] != main.address
        assert cache.add("key", "sandbox")
        assert local_source(entered)
        entered.flush()
        assert cache.get("key") is None
    main.assert_untouched()
    assert everything() == before
    cache.set("key", "main")
    assert main.client.get(":1:key") is not None


def test_error_in_the_run_restores_the_process(main: MainMemcached) -> None:
    before = everything()
    with pytest.raises(ZeroDivisionError), sandbox_run():
        cache.set("key", 1 / 0)
    assert everything() == before


def test_backend_made_in_the_run_and_kept_returns_to_main(main: MainMemcached) -> None:
    with sandbox_run():
        kept = caches.create_connection("default")
        kept.set("key", "sandbox")
    kept.set("key", "main")
    assert kept.get("key") == "main"
    kept.close()
    assert main.client.get(":1:key") is not None


def test_setting_changed_is_sent_at_begin_and_end(main: MainMemcached) -> None:
    received: list[tuple[str, bool, bool]] = []

    def listen(*, setting: str, value: Any, enter: bool, **_: object) -> None:
        received.append((setting, value["default"]["LOCATION"] == main.address, enter))

    setting_changed.connect(listen)
    try:
        with sandbox_run():
            pass
    finally:
        setting_changed.disconnect(listen)
    assert received == [("CACHES", False, True), ("CACHES", True, False)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory_mb": 0}, OptionError, "memory_mb=0: must be 1 or more"),
        ({"binary": "/no/memcached"}, BinaryError, "'/no/memcached' does not exist"),
        ({"exclude": ["x"]}, RunError, "the aliases to exclude name 'x', but the aliases"),
    ],
)
def test_wrong_option_changes_nothing(
    main: MainMemcached, options: Any, error: type[Exception], message: str
) -> None:
    before = everything()
    with pytest.raises(error, match=message), sandbox_run(**options):
        pass
    assert everything() == before


def test_memcached_that_does_not_start_changes_nothing(main: MainMemcached) -> None:
    before = everything()
    with pytest.raises(StartError, match="exit code 1"), sandbox_run(binary="/bin/false"):
        pass
    assert everything() == before


def test_run_within_a_run_joins_the_outer_run(main: MainMemcached) -> None:
    with sandbox_run() as outer:
        between = everything()
        cache.set("key", "outer")
        with sandbox_run(exclude=["other"], flush="never", guard=["localhost:5"]) as inner:
            assert inner is outer
            assert inner.flushed_after == "never"
            assert cache.get("key") == "outer"
            with pytest.raises(MainMemcachedRefused, match="the sandbox refuses"):
                socket.create_connection(("localhost", 5))
        assert everything() == between
        assert (outer.flushed_after, outer.excluded) == ("test", set())
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            socket.create_connection(("localhost", 5))


def test_guard_lasts_as_long_as_the_run(main: MainMemcached) -> None:
    with sandbox_run() as entered:
        with pytest.raises(ConnectionRefusedError, match="the sandbox refuses"):
            socket.create_connection((main.host, main.port))
        assert [refusal.address for refusal in entered.take_refusals()] == [main.address]
    socket.create_connection((main.host, main.port)).close()


def test_run_without_a_guard_refuses_nothing(main: MainMemcached) -> None:
    with sandbox_run(guard=None):
        socket.create_connection((main.host, main.port)).close()


def test_refusal_in_a_child_is_reported_once(main: MainMemcached) -> None:
    script = "import socket; socket.create_connection(('127.0.0.1', 11211))"
    with sandbox_run() as entered:
        for _ in range(2):
            child = subprocess.run(
                [sys.executable, "-c", script], stderr=subprocess.PIPE, check=False
            )
            assert b"the sandbox refuses the connection" in child.stderr
        assert [refusal.address for refusal in entered.take_refusals()] == 2 * ["127.0.0.1:11211"]
        assert entered.take_refusals() == []


def test_child_that_outlives_the_run_is_refused_without_a_report(main: MainMemcached) -> None:
    script = "import socket, sys; sys.stdin.read()\nsocket.create_connection(('127.0.0.1', 11211))"
    with sandbox_run():
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
    _, error = child.communicate()
    assert b"MainMemcachedRefused" in error
    assert b"FileNotFoundError" not in error


def test_no_server_is_started_before_the_first_request() -> None:
    with sandbox_run() as entered:
        source = local_source(entered)
        assert source is not None
        entered.flush()
        assert source.servers() == []
        assert "MEMCACHED_SANDBOX_ADDRESS" not in os.environ
        first = source.first_server()
        assert os.environ["MEMCACHED_SANDBOX_ADDRESS"] == first.address
        assert source.first_server() is first
        # The first address in CACHES has that server, as under sandbox exec.
        assert entered.resolve(["main:5"]) == {"main:5": first.address}


def test_what_a_run_without_a_server_leaves_when_killed_is_removed_by_the_next_start(
    python: Run, run_folder: Path
) -> None:
    result = python(
        "import os\n"
        "from sandbox.run.local import sandbox_run\n"
        "with sandbox_run(distributes=True): os.kill(os.getpid(), 9)\n"
    )
    assert result.returncode == -signal.SIGKILL
    assert [*run_folder.glob("*/*")]
    with Memcached():
        pass
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_run_that_leaves_tests_to_workers_restores_settings(main: MainMemcached) -> None:
    before = everything(), dict(vars(settings._wrapped))
    with sandbox_run(distributes=True) as entered:
        source = local_source(entered)
        assert source is not None
        assert "CACHES" in dir(settings)
        assert settings.CACHES["default"]["LOCATION"] == source.servers()[0].address
        assert cache.add("key", "sandbox")
    main.assert_untouched()
    assert (everything(), dict(vars(settings._wrapped))) == before
