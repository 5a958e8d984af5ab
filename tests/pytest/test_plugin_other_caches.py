"""`sandboxed_caches_fixture`: a fixture that gives some of the tests their own caches."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings

from ..helpers.projects import PYMEMCACHE, InProcess, MakeProject, passed

CONFTEST = (
    "from sandbox.pytest import sandboxed_caches_fixture\n"
    "small = sandboxed_caches_fixture(memory_mb=4, threads=2, max_item_size=1 << 20)\n"
    "kept = sandboxed_caches_fixture(scope='module', flush='module', exclude=['other'])\n"
    "guarded = sandboxed_caches_fixture(guard=['localhost:5'])\n"
    "unguarded = sandboxed_caches_fixture(guard=None)\n"
)

TESTS = """
import socket
import pytest
from django.conf import settings
from django.core.cache import cache, caches

def connect(port):
    try: socket.create_connection(("localhost", port), timeout=1)
    except OSError as error: return "refuses" in str(error)

def test_small(small):
    (server,) = small.servers
    assert server.stats()["limit_maxbytes"] == str(4 << 20)
    assert settings.CACHES["default"]["LOCATION"] == server.address
    cache.set("key", "small")

def test_not_small():
    assert cache.get("key") is None
    cache.set("key", "large")

@pytest.mark.parametrize("number", range(3))
def test_kept(kept, number):
    assert cache.get("counter", 0) == number
    cache.set("counter", number + 1)
    assert settings.CACHES["other"]["LOCATION"] != settings.CACHES["default"]["LOCATION"]

def test_guarded(guarded): assert connect(5)
def test_unguarded(unguarded): assert not connect(11211)
def test_neither(): assert not connect(5)
"""

CACHES = {
    "default": {"BACKEND": PYMEMCACHE, "LOCATION": "main"},
    "other": {"BACKEND": PYMEMCACHE, "LOCATION": "main", "KEY_PREFIX": "x"},
}


@override_settings(CACHES=CACHES)
def test_other_caches_within_a_run(in_process: InProcess) -> None:
    in_process.write("conftest.py", CONFTEST)
    in_process.write("test_it.py", TESTS)
    result = in_process.pytest()
    assert re.findall(r"^FAILED (\S+)", result.stdout, re.MULTILINE) == [
        "test_it.py::test_guarded"
    ], result.stdout
    assert "localhost:5" in result.stdout
    assert "7 passed" in result.stdout


def test_other_caches_without_a_run(make_project: MakeProject) -> None:
    project = make_project(CACHES)
    project.write("conftest.py", CONFTEST)
    project.write("test_it.py", TESTS)
    assert passed(project.pytest("-k", "not not_small")) == 7


@override_settings(CACHES=CACHES)
def test_failed_test_shows_the_contents_of_other_caches(in_process: InProcess) -> None:
    in_process.write("conftest.py", CONFTEST)
    in_process.write(
        "test_it.py",
        "from django.core.cache import cache\n"
        "def test(small):\n"
        "    cache.set('key', 'value')\n"
        "    assert not 'it'\n",
    )
    held = r"^-+ memcached at \S+ -+\n- :1:key  \d+ bytes, expires in"
    result = in_process.pytest("-o", "memcached_sandbox=false")
    assert re.search(held, result.stdout, re.MULTILINE)


@override_settings(CACHES=CACHES)
def test_other_caches_are_flushed_after_each_test(in_process: InProcess) -> None:
    in_process.write(
        "test_it.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "from sandbox.pytest import sandboxed_caches_fixture\n"
        "box = sandboxed_caches_fixture(scope='session', autouse=True)\n"
        "@pytest.mark.parametrize('number', range(3))\n"
        "def test(number): assert cache.add('key', number)\n",
    )
    assert passed(in_process.pytest("-o", "memcached_sandbox=false")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("guard='a:1'", "guard='a:1': must be a list of strings"),
        ("guard=['a:b']", "guard=['a:b']: 'a:b' is not HOST:PORT, [IPV6]:PORT or unix:/PATH"),
        ("flush='foo'", "flush='foo': must be one of test, class, module, session, never"),
        ("exclude=3", "exclude=3: must be a list of strings"),
    ],
)
def test_wrong_option_of_other_caches_is_an_error(
    in_process: InProcess, options: str, message: str
) -> None:
    in_process.write(
        "test_it.py",
        "from sandbox.pytest import sandboxed_caches_fixture\n"
        f"box = sandboxed_caches_fixture({options})\n"
        "def test(box): pass\n",
    )
    result = in_process.pytest("-o", "memcached_sandbox=false")
    assert "1 error" in result.stdout
    assert f"OptionError: {message}" in result.stdout
