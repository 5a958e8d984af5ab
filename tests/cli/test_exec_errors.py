"""What `sandbox exec` cannot do: one line on stderr, and an exit status."""

from __future__ import annotations

import pytest

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing argument 'COMMAND...'. See 'sandbox exec --help'."),
        (["--memry", "5", "true"], 2, "No such option '--memry'. Did you mean '--memory'?"),
        (
            ["-m", "much", "true"],
            2,
            "--memory much: must be a whole number of MB, or a size such as 512m or 1g. See",
        ),
        (["-m", "1", "true"], 2, "--memory 1: memcached needs at least 2 MB"),
        (["-m", "-5", "true"], 2, "--memory -5: must be 1 or more. See"),
        (
            ["-I", "5q", "true"],
            2,
            "--max-item-size 5q: must be a size: bytes, or such as 512k or 2m. See",
        ),
        (["-I", "100k", "true"], 2, "--max-item-size 100k: memcached takes multiples of 512 KB"),
        (["-t", "0", "true"], 2, "--threads 0: must be 1 or more"),
        (["--memcached-arg", "-d", "true"], 2, "--memcached-arg -d: -d cannot be"),
        (["--env", "novalue", "true"], 2, "'novalue' is not NAME=TEMPLATE."),
        (["--flush", "class", "true"], 2, "--flush class: must be one of test, never. See"),
        (
            ["--guard", "a b", "true"],
            2,
            "--guard a b: 'a b' is not HOST:PORT, [IPV6]:PORT or unix:/PATH. See",
        ),
        (["--guard", "a:1", "--guard", "off", "true"], 2, "'off' is for no guard at all"),
        (
            ["--env", "A={addres}", "true"],
            2,
            "{addres} in 'A={addres}' is none of {address}, {host}",
        ),
        (
            ["--unix", "--env", "A={port}", "true"],
            2,
            "{port} in 'A={port}' is none of {address} on a Unix socket",
        ),
        (["--memcached=", "true"], 2, "--memcached : must be a path or a name. See"),
        (["--memcached", "/no/memcached", "true"], 125, "'/no/memcached' does not exist"),
        (["--memcached", "true", "echo", "ran"], 125, "/true ended with exit code 0 before it was"),
        (["-t", "500", "true"], 2, "--threads 500: memcached's own files count as connections: gi"),
        (["--max-connections", "9", "true"], 2, "--max-connections 9: must be 15 or more with"),
        (["--memcached-arg=-o", "--memcached-arg=x", "echo"], 125, "saying: Illegal suboption"),
    ],
)
def test_error_is_one_line(cli: Cli, arguments: list[str], status: int, message: str) -> None:
    assert_one_line(cli("exec", *arguments), status, message)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["no-such-command"], 127, "no-such-command: command not found"),
        (["./missing/command"], 127, "./missing/command: command not found"),
        ([""], 127, "sandbox: '': command not found"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["/etc"], 126, "/etc: Permission denied"),
        (["--memory", "0", "true"], 2, "--memory 0: must be 1 or more"),
        (["--memcached", "true", "echo", "ran"], 125, "/true ended with exit code 0 before it was"),
    ],
)
def test_error_of_a_real_process_is_one_line(
    run: Run, arguments: list[str], status: int, message: str
) -> None:
    assert_one_line(run("sandbox", "exec", *arguments), status, message)
