"""The kernel keeps all programs of a run from the main memcached, or leads them to the sandbox."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandbox.system import seccomp

from ..conftest import Run
from ..helpers.connecting import Programs
from ..helpers.memcacheds import MainMemcached, PlainMemcached

pytestmark = pytest.mark.skipif(
    seccomp.reason_of_absence() is not None, reason="the kernel guards nothing here"
)

SINGS = "sings"
TOLD = "by the kernel guard, to process"


@pytest.fixture
def programs(tmp_path: Path, main_memcached: MainMemcached) -> Programs:
    return Programs(tmp_path, main_memcached.port)


def answers(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


def guarding(main: PlainMemcached, *options: str) -> list[str]:
    return ["sandbox", "exec", *options, "--guard", main.address, "--"]


def test_programs_reach_the_main_memcached_without_a_guard(programs: Programs, run: Run) -> None:
    found = answers(run(programs.all()).stdout)
    assert {name for name, answer in found.items() if SINGS in answer} == {*programs.commands}


def test_strict_refuses_each_program(
    programs: Programs, run: Run, main_memcached: MainMemcached
) -> None:
    result = run(*guarding(main_memcached, "--strict"), programs.all())
    found = answers(result.stdout)
    assert {*found} == {*programs.commands}
    assert not [name for name, answer in found.items() if SINGS in answer or "VALUE" in answer]
    told = [line for line in result.stderr.splitlines() if TOLD in line]
    assert all(f":{main_memcached.port} was refused " in line for line in told)
    more = re.search(r"and (\d+) more of these", result.stderr)
    # Eight threads of one process are told of in one line.
    assert len(told) + int(more[1] if more else 0) == len(programs.commands), result.stderr
    assert result.returncode == 125
    main_memcached.assert_untouched()


def test_redirect_leads_each_program(
    programs: Programs, run: Run, main_memcached: MainMemcached
) -> None:
    result = run(*guarding(main_memcached, "--redirect", "--strict"), programs.all())
    found = answers(result.stdout)
    assert {*found} == {*programs.commands}
    missing = {name: answer for name, answer in found.items() if not re.search("END|None", answer)}
    assert missing == {}
    assert (
        f"sandbox: {programs.connections} connections to the main memcached were led to the "
        in (result.stderr)
    )
    assert "led to was not emptied between tests: no Python process" in result.stderr
    assert result.returncode == 0
    main_memcached.assert_untouched()
