"""Tests that break the servers of an alias, by each way in."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.test import SimpleTestCase, override_settings

from sandbox import OptionError, RunError, ServerError
from sandbox.django import outage, sandboxed_caches

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import Result, found
from ..helpers.projects import PYMEMCACHE, Project

PYLIBMC = "django.core.cache.backends.memcached.PyLibMCCache"

# How outages end, and what is left of them. Each second test must find a server that works.
SUITE = """
import os, subprocess, sys
from contextlib import suppress
from django.core.cache import cache
from django.test import SimpleTestCase
from sandbox import Server, ServerError
from sandbox.django import outage

CAN_ASK = os.environ.get("CAN_ASK")
left = []

def server():
    return Server(cache._servers[0]) if CAN_ASK else own_server()

def own_server():
    from sandbox.server.memcached import server_at
    return server_at(cache._servers[0])

CHILD = '''
import os, signal, sys
from sandbox import Server
outage = getattr(Server(sys.argv[1]), sys.argv[2])()
outage.__enter__()
print("broken", flush=True)
if sys.argv[3:]: os.kill(os.getpid(), signal.SIGKILL)
outage.__exit__(None, None, None)
'''

class Tests(SimpleTestCase):
    def works(self):
        cache.set("key", 1)
        self.assertEqual(cache.get("key"), 1)
    def is_empty(self):
        self.assertIsNone(cache.get("key"))
        self.works()
    def leave(self, outage):
        left.append(outage)
        outage.__enter__()

    def test_01(self):
        self.works()
        with self.assertRaises(ServerError), server().down(), server().hung(): pass
        self.is_empty()
    def test_02(self):
        self.is_empty()
        self.leave(server().down())
        with self.assertRaises(Exception): cache.get("key")
    def test_03(self):
        self.is_empty()
        self.leave(server().hung())
        with self.assertRaises(TimeoutError): cache.get("key")
    def test_04(self):
        self.is_empty()
        self.leave(server().full())
        with self.assertRaisesRegex(Exception, "out of memory"): cache.set("key", 1)
    def test_05(self):
        self.is_empty()
        server().restart()
    @outage("down")
    def test_06(self):
        with self.assertRaises(Exception): cache.get("key")
    def test_07(self):
        self.is_empty()
        with suppress(ZeroDivisionError), server().hung(): 1 / 0
        self.assertEqual(cache.get("key"), 1)
    def test_08(self):
        self.is_empty()
        for kind in ("down", "hung", "full"):
            for how in ([], ["killed"]):
                command = [sys.executable, "-c", CHILD, server().address, kind, *how]
                done = subprocess.run(command, capture_output=True, text=True)
                if CAN_ASK:
                    self.assertEqual(done.stdout, "broken\\n", done.stderr)
                    self.assertEqual(done.returncode, -9 if how else 0, done.stderr)
                else:
                    self.assertIn("ServerError", done.stderr)
                    self.assertIn("belongs to the process that runs the tests", done.stderr)
    def test_09(self):
        self.is_empty()

@outage("full")
class Full(SimpleTestCase):
    def test(self):
        with self.assertRaisesRegex(Exception, "out of memory"): cache.set("key", 1)
class Last(SimpleTestCase):
    def test(self): cache.set("key", 1)
"""


@pytest.fixture
def project(tmp_path: Path, run: Run, main_memcached: MainMemcached) -> Project:
    options = {"timeout": 0.2, "connect_timeout": 60}
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address, "OPTIONS": options}
    project = Project(tmp_path, run, {"default": alias})
    project.write("tests.py", SUITE)
    return project


@pytest.mark.parametrize("way", ["exec", "plugin", "runner"])
def test_next_test_has_a_server_that_works_whatever_a_test_did(
    project: Project, main_memcached: MainMemcached, way: str
) -> None:
    result: Result
    if way == "exec":
        result = project.sandboxed("--", "./manage.py", "test", CAN_ASK="1")
    elif way == "plugin":
        result = project.pytest("--memcached-sandbox", "tests.py")
    else:
        result = project.manage("test", "--testrunner=sandbox.django.runner.SandboxRunner")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "did not live" not in output
    assert "killed by signal" not in output
    assert found(r"(\d+) gets .*, (\d+) outages, peak memory [\d.]+ of 64 MB", output)
    main_memcached.assert_untouched()


def test_clients_of_django_work_at_once_after_an_outage() -> None:
    """libmemcached would take the server for dead for seconds."""
    pytest.importorskip("pylibmc")
    backends = {"default": PYMEMCACHE, "other": PYLIBMC}
    aliases = {alias: {"BACKEND": name, "LOCATION": "a:1"} for alias, name in backends.items()}
    with override_settings(CACHES=aliases), sandboxed_caches() as box:
        for alias in aliases:
            caches[alias].set("key", 1)
            for kind in ("down", "hung", "full"):
                with getattr(box, kind)():
                    if kind == "down":
                        for _ in range(2):
                            with suppress(Exception):  # of that client
                                assert caches[alias].get("key") is None
                caches[alias].set("key", 1)
                assert caches[alias].get("key") == 1
        box.restart()
        box.flush()
        for alias in aliases:
            assert caches[alias].get("key") is None


def test_clients_of_other_threads_are_renewed_and_not_closed() -> None:
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": "a:1"}
    found: list[Any] = []
    is_connected, has_been_broken = threading.Event(), threading.Event()

    def use() -> None:
        cache.set("key", 1)
        is_connected.set()
        has_been_broken.wait()
        with pytest.raises(Exception):  # noqa: B017, PT011 - its connection was cut
            cache.get("key")
        cache.close()
        found.append(cache.get("key"))
        cache.close()

    with override_settings(CACHES={"default": alias}), sandboxed_caches() as box:
        thread = threading.Thread(target=use)
        thread.start()
        is_connected.wait()
        box.restart()
        box.flush()
        has_been_broken.set()
        thread.join()
    assert found == [None]


class OutageTests(SimpleTestCase):
    def test_outage_is_a_context_manager_and_a_decorator(self) -> None:
        alias = {"BACKEND": PYMEMCACHE, "LOCATION": "a:1"}
        other = {"BACKEND": PYMEMCACHE, "LOCATION": "b:1"}
        with (
            override_settings(CACHES={"default": alias, "other": other}),
            sandboxed_caches() as box,
        ):
            first, second = box.servers

            @outage("hung", alias="other")
            def broken() -> list[str]:
                return [first.outage, second.outage]

            assert broken() == ["", "hung"]
            with outage("down"):
                assert [first.outage, second.outage] == ["down", ""]
            assert [first.outage, second.outage] == ["", ""]
            with outage("down"), pytest.raises(ServerError, match="is down already"):
                outage("full").enable()

    def test_mistakes_are_told(self) -> None:
        with pytest.raises(OptionError, match=r"outage\('up'\): the kinds are down, hung, full"):
            outage("up")
        with (
            override_settings(CACHES={"default": {"BACKEND": PYMEMCACHE, "LOCATION": "a:1"}}),
            pytest.raises(RunError, match=r"outage\('down'\): there is no CACHES\['x'\]; the ali"),
            outage("down", alias="x"),
        ):
            pass
