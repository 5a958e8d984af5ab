"""The session's header and summary, and the report of a failed test."""

from __future__ import annotations

import re
from base64 import b64encode

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import found
from ..helpers.projects import InProcess, Project, header, summary
from ..helpers.suites import CLEAN_CACHE


def test_header_and_summary(project: Project, main_memcached: MainMemcached) -> None:
    project.write("test_it.py", CLEAN_CACHE)
    # Most projects have pytest-xdist, which distributes nothing without -n.
    result = project.pytest("-n0", "--memcached-sandbox-memory=32")
    assert re.fullmatch(
        rf"32 MB, 127\.0\.0\.1:\d+ in place of {main_memcached.address}", header(result)
    )
    assert re.fullmatch(
        r"336 gets \(90\.5 % hits\), 336 sets, 0 evictions, peak memory \d\.\d of 32 MB",
        summary(result),
    )


def test_summary_with_evictions_names_the_memory_option(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "from django.core.cache import cache\n"
        "def test():\n"
        "    for number in range(100): cache.set(str(number), b'x' * 100_000)\n",
    )
    result = django_in_process.pytest("--memcached-sandbox-memory=4")
    assert re.search(r", \d+ evictions, .* raise --memcached-sandbox-memory$", summary(result))


def test_quiet_session_has_neither_header_nor_summary(in_process: InProcess) -> None:
    in_process.write("test_it.py", "def test(memcached): memcached.flush()\n")
    assert "memcached-sandbox: " in in_process.pytest().stdout
    assert "memcached-sandbox: " not in in_process.pytest("--memcached-sandbox-quiet").stdout


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "no items"), (3, "k02"), (20, "k19"), (21, "and up to 1 more")]
)
def test_failed_test_shows_the_contents_of_its_cache(
    django_in_process: InProcess, count: int, shown: str
) -> None:
    django_in_process.write(
        "test_it.py",
        "from django.core.cache import cache\n"
        "def test_fails():\n"
        f"    for number in range({count}):\n"
        "        cache.set(f'k{number:02}', 'v' * number, None if number else 9999)\n"
        "    assert not 'it'\n"
        "def test_passes(): cache.set('other', 1)\n",
    )
    result = django_in_process.pytest()
    assert "1 failed, 1 passed" in result.stdout
    contents = r"(?ms)^-+ memcached at \S+, in place of \S+ -+\n(.*?)^memc"
    section = found(contents, result.stdout)[1].splitlines()
    assert shown in section[-1]
    assert len(section) == min(count, 20) + (count > 20) + (count == 0)
    if count:
        assert re.fullmatch(r"- :1:k00 +\d+ bytes, expires in 9\d{3} s", section[0])
    if count > 1:
        assert re.fullmatch(r"- :1:k01 +\d+ bytes, expires never", section[1])


def test_failed_test_shows_keys_and_file_names_in_one_line(in_process: InProcess) -> None:
    key = b64encode(b"\x1b[31mred\n::error::forged")
    in_process.write(
        "test_it.py",
        "import socket\n"
        "from contextlib import closing, suppress\n"
        "CONNECT = \"socket.create_connection(('127.0.0.1', 11211))\"\n"
        "def test(memcached):\n"
        "    with closing(memcached.client()) as client:\n"
        f"        client.raw_command({b'ms ' + key + b' 2 b'!r} + b'\\r\\nhi')\n"
        "    with suppress(ConnectionRefusedError):\n"
        "        exec(compile(CONNECT, 'file\\n::error::\\x1b[2J', 'exec'))\n"
        "    assert not 'it'\n",
    )
    output = in_process.pytest().stdout
    assert re.search(r"(?m)^- \\x1b\[31mred\\n::error::forged  \d+ bytes, expires never$", output)
    assert r"at file\n::error::\x1b[2J:1" in output
    assert "\x1b" not in output
    assert "\n::error::" not in output
