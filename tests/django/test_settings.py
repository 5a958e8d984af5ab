"""`sandboxed` for settings: outside a run, under `sandbox exec`, and with servers it starts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from sandbox import OptionError, Sandbox
from sandbox.django import sandboxed
from sandbox.inject import run
from sandbox.run.control import Control

from ..conftest import Run
from ..helpers.aliases import FULL, LOCMEM
from ..helpers.processes import wait_until_gone
from ..helpers.projects import PYMEMCACHE


@pytest.fixture
def run_of_exec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Puts this process into a run, as `sandbox exec` does."""
    with Sandbox() as sandbox:
        control = Control(sandbox, str(tmp_path / "control"))
        monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", control.path)
        monkeypatch.setattr(run, "_run", None)
        yield sandbox
        control.stop()


def test_sandboxed_outside_a_run_returns_the_same_caches() -> None:
    everything: dict[str, Any] = {"default": FULL, "other": LOCMEM}
    assert sandboxed(everything) is everything
    assert sandboxed(everything, exclude=["default"], memory_mb=8) is everything


def test_sandboxed_outside_a_run_imports_nothing(python: Run) -> None:
    result = python(
        "import os, sys; before = set(sys.modules)\n"
        "from sandbox.django import sandboxed\n"
        "sandboxed({})\n"
        "print(*sorted(set(sys.modules) - before - {'__future__'}))"
    )
    assert result.stdout.split() == ["sandbox", "sandbox.django"]


def test_sandboxed_under_exec_repoints_each_address(run_of_exec: Sandbox) -> None:
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
    # Within a run `start` starts no other servers, and sandbox addresses stay.
    assert sandboxed(repointed, start=True) == {
        **repointed,
        "left": {**FULL, "LOCATION": run_of_exec.servers[-1].address},
    }
    assert len(run_of_exec.servers) == 3


def test_started_servers_live_as_long_as_their_process(python: Run) -> None:
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
        (
            {"a": {**FULL, "OPTIONS": {"username": "me", "password": "x"}}, "b": LOCMEM},
            r"CACHES\['a'\]\['OPTIONS'\]\['username'\] is set, but .* alias with exclude=\['a'\]$",
        ),
    ],
)
def test_malformed_caches_are_an_error_of_django(
    monkeypatch: pytest.MonkeyPatch, malformed: Any, message: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        sandboxed(malformed, start=True, exclude=["b"])
    monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", "/nowhere")
    with pytest.raises(ImproperlyConfigured, match=message):
        sandboxed(malformed, exclude=["b"])


def test_bad_option_is_an_error() -> None:
    with pytest.raises(OptionError, match="memory_mb"):
        sandboxed({"default": FULL}, start=True, memory_mb=0)
