"""Markers and fixtures that break servers for a test."""

from __future__ import annotations

import re

import pytest

from ..helpers.projects import InProcess, Project, passed, summary

MARKED = """
import pytest
from django.core.cache import cache

pytestmark = pytest.mark.usefixtures("filled")

@pytest.fixture
def filled(memcached):
    assert memcached.outage == ""
    cache.set("key", 1)
    yield
    assert memcached.outage == ""

@pytest.mark.memcached_down
def test_down(memcached):
    assert memcached.outage == "down"
    for _ in range(2):
        with pytest.raises(Exception): cache.get("key")

def test_up(memcached):
    assert memcached.outage == ""
    assert cache.get("key") == 1

@pytest.mark.memcached_hung(alias="default")
def test_hung(memcached):
    assert memcached.outage == "hung"

@pytest.mark.memcached_full
@pytest.mark.parametrize("n", [1, 2])
class TestFull:
    def test_full(self, memcached, n):
        assert memcached.outage == "full"
        with pytest.raises(Exception, match="out of memory"): cache.set("key", 2)

@pytest.fixture
def broken(memcached):
    with memcached.down(): yield memcached

def test_fixture(broken):
    assert broken.outage == "down"
"""


def test_markers_break_servers_for_the_call_of_a_test(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", MARKED)
    result = django_in_process.pytest("--strict-markers")
    assert passed(result) == 6
    assert "0 evictions, 5 outages, peak memory" in summary(result)
    assert "@pytest.mark.memcached_down(alias='default'): " in (
        django_in_process.pytest("--markers").stdout
    )


def test_failure_report_knows_of_the_outage(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest\n"
        "@pytest.fixture(params=['down', 'hung'])\n"
        "def broken(request, memcached):\n"
        "    with getattr(memcached, request.param)(): yield\n"
        "def test(broken): assert 0\n"
        "@pytest.mark.memcached_full\n"
        "def test_marked(memcached): assert 0\n"
        "def test_with(memcached):\n"
        "    with memcached.hung(): pass\n"
        "    memcached.restart()\n"
        "    assert 0\n"
        "def test_without(memcached): assert 0\n",
    )
    result = django_in_process.pytest()
    for kind in ("down", "hung"):
        assert f" is {kind}, in an outage that was asked for: end that first.\n" in result.stdout
    for told in ("full for a while\nno items", "hung for a while\nwas restarted\nno items"):
        assert f" -----------\nwas {told}\n" in result.stdout
    assert result.stdout.count("-----------\nno items\n") == 1
    assert "5 outages" in summary(result)


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("down('default')", "test_it.py::test: memcached_down takes alias=, .*, but got 'default'"),
        ("hung(name='x')", "test_it.py::test: memcached_hung takes alias=, .*but got name='x'"),
        ("full(alias=1)", "test_it.py::test: memcached_full takes alias=, .*, but got alias=1"),
    ],
)
def test_mistake_in_a_marker_is_told_before_any_test(
    django_in_process: InProcess, mark: str, problem: str
) -> None:
    django_in_process.write(
        "test_it.py", f"import pytest\n@pytest.mark.memcached_{mark}\ndef test(): pass\n"
    )
    result = django_in_process.pytest()
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert re.search(f"(?m)^ERROR: {problem}$", result.stderr), result.stderr


def test_marker_without_its_alias_or_without_a_sandbox_fails_the_test(
    django_in_process: InProcess,
) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest\n"
        "@pytest.mark.memcached_down(alias='x')\n"
        "def test_alias(): print('was run')\n"
        "@pytest.mark.memcached_down\n"
        "def test_without(): pass\n"
        "@pytest.mark.memcached_hung\n"
        "@pytest.mark.memcached_down\n"
        "def test_twice(memcached): assert memcached.outage == 'down'  # the closest marker\n"
        "def test_after(memcached): assert memcached.outage == ''\n",
    )
    result = django_in_process.pytest()
    assert "1 failed, 3 passed" in result.stdout
    assert "@pytest.mark.memcached_down: there is no CACHES['x']; the aliases are" in result.stdout
    assert "was run" not in result.stdout
    off = django_in_process.pytest("-o", "memcached_sandbox=false", "-k", "without")
    assert "no server of a sandbox: run the tests under 'sandbox exec'" in off.stdout
    assert "1 failed" in off.stdout


def test_outage_that_is_left_by_a_test_of_other_caches_is_mended(
    django_in_process: InProcess,
) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest, unittest\n"
        "from django.core.cache import cache\n"
        "from sandbox.pytest import sandboxed_caches_fixture\n"
        "from sandbox.unittest import MemcachedTestCase\n"
        "left = []\n"
        "def leave(outage):\n"
        "    left.append(outage)\n"
        "    outage.__enter__()\n"
        "small = sandboxed_caches_fixture(scope='module')\n"
        "kept = sandboxed_caches_fixture(scope='module', flush='never')\n"
        "@pytest.mark.parametrize('kind', ['down', 'hung', 'full', 'down'])\n"
        "@pytest.mark.parametrize('caches', ['small', 'kept'])\n"
        "def test_it(caches, kind, request):\n"
        "    box = request.getfixturevalue(caches)\n"
        "    cache.set(kind, 1)\n"
        "    assert cache.get(kind) == 1\n"
        "    leave(getattr(box, kind)())\n"
        "class Tests(MemcachedTestCase):\n"
        "    def test_1(self): leave(self.memcached.down())\n"
        "    def test_2(self): leave(self.memcached.hung())\n"
        "    def test_3(self): self.memcached.flush()\n",
    )
    assert passed(django_in_process.pytest()) == 11


def test_time_limit_within_an_outage_mends_the_server(project: Project) -> None:
    """The signal of pytest-timeout, by each way of its own."""
    project.write(
        "test_it.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "@pytest.mark.memcached_hung\n"
        "@pytest.mark.timeout(0.2, method='signal', func_only=True)\n"
        "def test_marked(): cache.get('key')\n"
        "@pytest.mark.timeout(0.2, method='signal', func_only=True)\n"
        "def test_with(memcached):\n"
        "    with memcached.hung(): cache.get('key')\n"
        "def test_after(memcached):\n"
        "    assert memcached.outage == ''\n"
        "    cache.set('key', 1)\n"
        "    assert cache.get('key') == 1\n",
    )
    result = project.pytest("--timeout-method=signal")
    assert "2 failed, 1 passed" in result.stdout, result.stdout
    assert result.stdout.count("Failed: Timeout") >= 2
    assert "2 outages" in summary(result)
