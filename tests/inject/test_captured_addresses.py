"""What a worker knows of its parent's servers leads to its own, or is refused and reported."""

from __future__ import annotations

import re

import pytest

from ..helpers.django_runs import with_runner
from ..helpers.processes import Result
from ..helpers.projects import Project
from ..helpers.suites import START_METHODS

# Each test fails where two workers, or two tests, use one server by what they have captured.
THROUGH_DJANGO = """
import os
from django.conf import settings
from django.core.cache import CacheHandler, cache, caches
from django.test import SimpleTestCase, override_settings

PARENT = os.getpid()
MAIN = settings.CACHES["default"]["LOCATION"]
kept = [caches.create_connection("default") for _ in range(3)]
kept[0].get("connect")
handlers = [CacheHandler(settings.CACHES), CacheHandler(caches.settings)]
active = override_settings(CACHES={**settings.CACHES})
active.enable()

class A(SimpleTestCase):
    def test(self):
        self.assertNotEqual(os.getpid(), PARENT)
        for number, each in enumerate((cache, *kept, *(h["default"] for h in handlers))):
            self.assertTrue(each.add(str(number), 1))
            self.assertEqual(cache.get(str(number)), 1)
        self.assertNotEqual(settings.CACHES["default"]["LOCATION"], MAIN)
    test_again = test

@override_settings(CACHES={"default": {**settings.CACHES["default"], "TIMEOUT": 60}})
class B(A): pass

class C(A):
    def setUp(self): active.disable()
    def tearDown(self): active.enable()
"""

# A project's own backend, which reads LOCATION, and one as django-bmemcached has it. That without
# a server keeps what the parent has put there.
OWN_BACKENDS = """
import pymemcache
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from pymemcache import Client

class Base(BaseCache):
    def __init__(self, location, params):
        super().__init__(params)
        self.client = Client(location)
    def add(self, key, value, **_):
        return self.client.add(key, value, noreply=False)
    def get(self, key, **_):
        return self.client.get(key)

class Own(BaseCache):
    def __init__(self, location, params):
        super().__init__(params)
        self.items = {}
    def set(self, key, value, **_):
        self.items[key] = value
    def get(self, key, **_):
        return self.items.get(key)

class Memcached(BaseMemcachedCache):
    def __init__(self, server, params):
        super().__init__(server, params, library=pymemcache, value_not_found_exception=ValueError)
    @property
    def _cache(self):
        if not hasattr(self, "_client"):
            self._client = Client(self._servers[0])
        return self._client
    add, get = Base.add, Base.get
    client = _cache
"""

# Each test fails where two workers, or two tests, use one server.
THROUGH_OWN_BACKENDS = """
import os
from django.core.cache import cache, caches
from django.test import SimpleTestCase

PARENT = os.getpid()
kept = {name: caches[name] for name in ("Base", "Memcached")}
for each in kept.values():
    each.get("connect")
caches["Own"].set("warm", 1)

class A(SimpleTestCase):
    def test(self):
        self.assertNotEqual(os.getpid(), PARENT)
        self.assertEqual(caches["Own"].get("warm"), 1)
        for name in kept:
            self.assertTrue(caches[name].add(name, 1))
            self.assertEqual(kept[name].get(name), b"1")
        self.assertEqual(cache.get("Base", version=1), None)
    test_again = test
class B(A): pass
class C(A): pass
"""

# Each process finds its own servers in the variables of --env, empty at each test.
BY_VARIABLES = """
import os, socket
from django.core.cache import cache
from django.test import SimpleTestCase
from pymemcache import Client

class A(SimpleTestCase):
    def test(self):
        host, port = os.environ["HOST"], os.environ["PORT"]
        self.assertEqual(os.environ["URL"], f"cache://{host}:{port}/0")
        for address in (f"{host}:{port}", os.environ["SECOND"]):
            client = Client(address)
            self.assertTrue(client.add("key", 1, noreply=False))
            self.assertTrue(client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertEqual(cache.get("key", version=0), None)
    test_again = test
class B(A): pass
class C(A): pass
"""

# A client outside of Django: each address but the worker's own is refused.
OUTSIDE_DJANGO = """
import json, os, socket
from django.conf import settings
from django.test import SimpleTestCase
from pymemcache import Client

client = Client(settings.CACHES["default"]["LOCATION"])
SECOND = os.environ.get("SECOND")

class A(SimpleTestCase):
    def test(self):
        own = settings.CACHES["default"]["LOCATION"]
        sets = json.loads(os.environ.get("MEMCACHED_SANDBOX_ADDRESSES", "{}"))
        others = {address for servers in sets.values() for address in servers.values()} - {own}
        others.update(filter(None, [SECOND]))
        with self.assertRaises(ConnectionRefusedError) as caught:
            client.get("key")
        self.assertIn("this address was captured before the fork", str(caught.exception))
        for address in others:
            with self.assertRaisesRegex(ConnectionRefusedError, "captured before the fork"):
                socket.create_connection(("localhost", address.rpartition(":")[2]))
        Client(own).set("key", 1)
class B(A): pass
"""

REFUSED = (
    r"connecting to the server of another process was refused (\d) times \(.*\); first at "
    r".*/tests\.py:\d+: this address was captured before the fork; take it from settings when the "
    r"test runs"
)


@pytest.fixture(params=["exec", "runner"])
def way(request: pytest.FixtureRequest, project: Project) -> str:
    way: str = request.param
    if way == "runner":
        with_runner(project)
    return way


def run_tests(project: Project, way: str, options: list[str], runner_options: list[str]) -> Result:
    command = ["./manage.py", "test", "--parallel", "3"]
    if way == "exec":
        return project.sandboxed(*options, "--", *command, START_METHOD="fork")
    return project.manage(*command[1:], *runner_options, START_METHOD="fork")


def test_captured_settings_and_backends_lead_to_the_servers_of_the_worker(
    project: Project, way: str
) -> None:
    project.write("tests.py", THROUGH_DJANGO)
    result = run_tests(project, way, [], [])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "in the fullest of 4 servers" in result.stdout + result.stderr
    assert "was used" not in result.stdout + result.stderr


def test_backends_that_keep_their_client_elsewhere_lead_to_the_server_of_the_worker(
    project: Project, way: str
) -> None:
    project.write("own.py", OWN_BACKENDS)
    with_caches = (project.folder / "settings.py").read_text() + (
        "MAIN = CACHES['default']['LOCATION']\n"
        "for name in ('Base', 'Memcached'):\n"
        "    CACHES[name] = {'BACKEND': f'own.{name}', 'LOCATION': MAIN}\n"
        "CACHES['Own'] = {'BACKEND': 'own.Own', 'LOCATION': 'own'}\n"
    )
    project.write("settings.py", with_caches)
    project.write("tests.py", THROUGH_OWN_BACKENDS)
    result = run_tests(project, way, ["--strict"], ["--memcached-strict"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "worker had a connection" not in result.stdout + result.stderr
    assert "was used" not in result.stdout + result.stderr


def test_captured_address_is_refused_and_reported_without_a_guard_too(
    project: Project, way: str
) -> None:
    project.write("tests.py", OUTSIDE_DJANGO)
    # The guard of the kernel would lead each to its worker's own.
    exec_options = ["--strict", "--no-kernel-guard"]
    options = [*exec_options, "--servers", "2", "--env", "SECOND={address2}"]
    runner_options = ["--memcached-strict", "--memcached-no-guard"]
    result = run_tests(project, way, options, runner_options)
    assert "OK" in result.stderr, result.stderr
    found = re.search(REFUSED, result.stderr + result.stdout)
    # By exec: the parent's two servers. By the runner: the parent's twice, and one of a worker.
    assert found, result.stderr + result.stdout
    assert int(found[1]) == (4 if way == "exec" else 6)
    assert result.returncode == (125 if way == "exec" else 1)


def test_connection_from_before_the_fork_is_reported(project: Project, way: str) -> None:
    """One of Django's backends is not, which make others, and none that nothing can reach."""
    project.write(
        "tests.py",
        "import gc\n"
        "from django.conf import settings\n"
        "from django.core.cache import cache, caches\n"
        "from django.test import SimpleTestCase\n"
        "from pymemcache import Client\n"
        "client = Client(settings.CACHES['default']['LOCATION'])\n"
        "client.set('key', 1)\n"
        "pooling = {**settings.CACHES['default'], 'OPTIONS': {'use_pooling': True}}\n"
        "pooled = type(caches)({'default': pooling})\n"
        "for each in (cache, pooled['default']): each.get('connect')\n"
        "gc.disable()\n"
        "forgotten = Client(settings.CACHES['default']['LOCATION'])\n"
        "forgotten.get('connect')\n"
        "forgotten.cycle = forgotten\n"
        "del forgotten\n"
        "class A(SimpleTestCase):\n"
        "    def test(self): self.assertEqual(cache.get('key'), pooled['default'].get('key'))\n"
        "class B(A): pass\n",
    )
    result = run_tests(project, way, ["--strict"], ["--memcached-strict"])
    assert "OK" in result.stderr, result.stderr
    assert re.search(
        r"a worker had a connection to the server of another process from before the fork 2 times "
        r"\(127\.0\.0\.1:\d+\); first opened at \S+/tests\.py:7: connect when the test runs",
        result.stderr + result.stdout,
    ), result.stderr + result.stdout
    assert result.returncode == (125 if way == "exec" else 1)


def test_operations_of_a_client_that_no_guard_sees_are_counted(project: Project, way: str) -> None:
    pytest.importorskip("pylibmc")
    project.write(
        "tests.py",
        "import pylibmc\n"
        "from django.conf import settings\n"
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "client = pylibmc.Client([settings.CACHES['default']['LOCATION']])\n"
        "cache.set('parent', 1)\n"
        "class A(SimpleTestCase):\n"
        "    def test(self):\n"
        "        name = type(self).__name__\n"
        "        client.set(name, 1)\n"
        "        self.assertEqual(client.incr(name), 2)\n"
        "        client.touch(name, 60)\n"
        "        self.assertEqual(client.get(name), 2)\n"
        "        client.delete(name)\n"
        "class B(A): pass\n",
    )
    strict = ["--strict", "--no-kernel-guard"]
    result = run_tests(project, way, strict, ["--memcached-strict"])
    assert "OK" in result.stderr, result.stderr
    assert re.search(
        r"while workers ran, a server of their main process was used: 10 operations at "
        r"127\.0\.0\.1:\d+; if that was in a worker, its client must take its address from",
        result.stderr + result.stdout,
    ), result.stderr + result.stdout
    assert result.returncode == 0  # It may have been another process: that is not known.


@pytest.mark.parametrize("start_method", START_METHODS)
def test_variables_of_env_lead_each_worker_to_its_own(project: Project, start_method: str) -> None:
    project.write("tests.py", BY_VARIABLES)
    variables = {
        "URL": "cache://{address}/0",
        "HOST": "{host}",
        "PORT": "{port}",
        "SECOND": "{address2}",
    }
    options = [word for name, text in variables.items() for word in ("--env", f"{name}={text}")]
    for parallel in ([], ["--parallel", "2"]):
        command = ("./manage.py", "test", *parallel)
        result = project.sandboxed(
            "--servers", "2", *options, "--", *command, START_METHOD=start_method
        )
        assert result.returncode == 0, result.stderr
        assert "refused" not in result.stderr
