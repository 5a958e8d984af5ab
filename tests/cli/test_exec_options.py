"""The options of `sandbox exec`, on the command line and in the environment."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.processes import found


def test_options_reach_memcached(run: Run) -> None:
    script = (
        "import os; from pymemcache import Client;"
        "settings = Client(os.environ['MEMCACHED_SANDBOX_ADDRESS']).stats('settings');"
        "names = (b'maxbytes', b'item_size_max', b'num_threads', b'maxconns');"
        "print(*(int(settings[n]) for n in names))"
    )
    words = [sys.executable, "-c", script]
    for options in (
        ["-m8M", "-I", "2M", "-t", "2", "--max-connections", "77", "--start-timeout", "60"],
        ["--memory=8", "--max-item-size=2048k", "-t2", "--max-connections=77"],
    ):
        assert run("sandbox", "exec", *options, *words).stdout == f"{8 << 20} {2 << 20} 2 77\n"
    by_environment = run(
        "sandbox", "exec", *words,
        MEMCACHED_SANDBOX_MEMORY="8",
        MEMCACHED_SANDBOX_MAX_ITEM_SIZE="2m",
        MEMCACHED_SANDBOX_THREADS="2",
        MEMCACHED_SANDBOX_MAX_CONNECTIONS="77",
        MEMCACHED_SANDBOX_QUIET="1",
        MEMCACHED_SANDBOX_ENV="X={port}",
    )  # fmt: skip
    assert (by_environment.stdout, by_environment.stderr) == (f"{8 << 20} {2 << 20} 2 77\n", "")


def test_unix_and_verbose(run: Run, run_folder: Path) -> None:
    result = run("sandbox", "exec", "-v", "--unix", "--memcached-arg=-r", "--", "env")
    address = found(r"MEMCACHED_SANDBOX_ADDRESS=(unix:.*)", result.stdout)[1]
    assert address.startswith(f"unix:{run_folder}/")
    first, _ = result.stderr.splitlines()
    assert re.fullmatch(
        rf"sandbox: memcached at {address}, pid \d+: /\S+/memcached -m64 .* -r .*", first
    )


def test_memcached_option_names_the_binary(run: Run, tmp_path: Path) -> None:
    binary = tmp_path / "mine"
    binary.write_text('#!/bin/sh\necho started >started\nexec memcached "$@"\n')
    binary.chmod(0o755)
    assert run("sandbox", "exec", "--memcached", binary, "true").returncode == 0
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("MEMORY=lots", "MEMCACHED_SANDBOX_MEMORY=lots: must be a whole number of MB"),
        ("MEMCACHED_ARG=-m5 -C", "MEMCACHED_SANDBOX_MEMCACHED_ARG=-m5 -C: -m cannot be passed to"),
        ("UNIX=maybe", "Invalid value for MEMCACHED_SANDBOX_UNIX: 'maybe' is not a valid boolean"),
        ("FLUSH=x", "MEMCACHED_SANDBOX_FLUSH=x: must be one of test, never."),
        (
            "GUARD=x:y",
            "MEMCACHED_SANDBOX_GUARD=x:y: 'x:y' is not HOST:PORT, [IPV6]:PORT or unix:/PATH.",
        ),
        ("ENV=A={x}", "Invalid value for MEMCACHED_SANDBOX_ENV: {x} in 'A={x}' is none of"),
        ("SERVERS=0", "Invalid value for MEMCACHED_SANDBOX_SERVERS: 0 is not in the range"),
    ],
)
def test_wrong_variable_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"MEMCACHED_SANDBOX_{name}", value)
    result = cli("exec", "true")
    assert result.returncode == 2
    assert result.stderr.startswith(f"sandbox: {said}")
    assert result.stderr.endswith(" See 'sandbox exec --help'.\n")


def test_guard_overrides_no_guard_in_the_environment(run: Run) -> None:
    words = ["sh", "-c", "echo $MEMCACHED_SANDBOX_GUARDED"]
    off, on = {"MEMCACHED_SANDBOX_NO_GUARD": "1"}, {"MEMCACHED_SANDBOX_NO_GUARD": "0"}
    assert run("sandbox", "exec", "-q", *words, **on).stdout == "127.0.0.1:11211\n"
    assert run("sandbox", "exec", "-q", *words, **off).stdout == "\n"
    result = run("sandbox", "exec", "-q", "--guard", "nowhere:5", *words, **off)
    assert result.stdout == "127.0.0.1:11211 nowhere:5\n"
    assert run("sandbox", "exec", "-q", "--guard", "off", *words, **on).stdout == "\n"
