"""The fixtures `memcached`, `memcached_sandbox` and `memcached_factory`."""

from __future__ import annotations

import re

from django.test import override_settings

from ..helpers.plugin_suites import LIMITS
from ..helpers.projects import PYMEMCACHE, InProcess, Project, passed


@override_settings(
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "other": {"BACKEND": PYMEMCACHE, "LOCATION": ["a:1", "b:1"]},
    }
)
def test_memcached_names_other_aliases_if_default_has_no_server(in_process: InProcess) -> None:
    in_process.write(
        "test_it.py",
        "def test_default(memcached): pass\n"
        "def test_other(memcached_sandbox): assert len(memcached_sandbox['other']) == 2\n",
    )
    result = in_process.pytest()
    assert "1 passed, 1 error" in result.stdout
    assert (
        "CACHES['default'] is not at a memcached of the sandbox, but others are: "
        "memcached_sandbox['other']"
    ) in result.stdout


def test_memcached_factory_takes_options(in_process: InProcess) -> None:
    in_process.write(
        "test_it.py",
        "from contextlib import closing\n"
        + LIMITS.replace("def test(memcached):", "def check(memcached):")
        + "def test_given(memcached_factory):\n"
        "    first = memcached_factory(memory_mb=8, max_item_size=2 << 20, threads=3)\n"
        "    check(first)\n"
        "    second = memcached_factory()\n"
        "    with closing(first.client()) as one, closing(second.client()) as other:\n"
        "        one.set('key', 'value')\n"
        "        assert other.get('key') is None\n"
        "    check(second)\n"
        "def test_unix(memcached_factory, monkeypatch):\n"
        "    monkeypatch.setenv('UNIX', '1')\n"
        "    check(memcached_factory(unix_socket=True))\n",
    )
    result = in_process.pytest("-s", "--memcached-sandbox-memory=7")
    assert passed(result) == 2
    assert re.findall(r"(\d+ \d+ \d+) limits", result.stdout) == [
        "8 2097152 3",
        "7 1048576 1",
        "7 1048576 1",
    ]


def test_memcached_factory_leaves_no_process(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "import psutil, pytest\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "def test(memcached_factory, number):\n"
        "    children = psutil.Process().children()\n"
        "    assert [child.name() for child in children] == []\n"
        "    memcached_factory()\n",
    )
    assert passed(plain.pytest()) == 2
