"""Runs of suites that fail if anything is left by another test: in any order, and many at once."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import run_command
from ..helpers.projects import Project, passed, summary
from ..helpers.suites import CLEAN_CACHE, POISON, SITES


@contextmanager
def project(main_memcached: MainMemcached) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Project(Path(folder), run_command, main_memcached.address)


def runs_of_pytest(count: int, seed: int, main_memcached: MainMemcached) -> str:
    """Run tests in random orders, every tenth time in parallel, the first time included."""
    chance = random.Random(seed)
    with project(main_memcached) as poisoned:
        poisoned.write("settings.py", (poisoned.folder / "settings.py").read_text() + SITES)
        poisoned.write("test_poison.py", POISON)
        for number in range(count):
            arguments = ["-n4"] if number % 10 == 0 else []
            order = f"--randomly-seed={chance.randrange(2**32)}"
            result = poisoned.pytest("--memcached-sandbox", "-prandomly", order, *arguments)
            assert passed(result) == 5
    return f"{count} runs of pytest in random orders: no test saw another's cache"


def runs_of_manage(count: int, seed: int, main_memcached: MainMemcached) -> str:
    """Run `manage.py test` in random orders, in parallel, under `sandbox exec`."""
    chance = random.Random(seed)
    with project(main_memcached) as clean:
        clean.write("tests.py", CLEAN_CACHE)
        for _ in range(count):
            result = clean.test("--parallel", "4", "--shuffle", str(chance.randrange(2**32)))
            assert "Ran 16 tests" in result.stderr
    return f"{count} runs of manage.py test in random orders: no test saw another's cache"


def workers_at_once(count: int, main_memcached: MainMemcached) -> str:
    """Run a suite with many workers of pytest-xdist."""
    with project(main_memcached) as clean:
        for number in range(4):
            clean.write(f"test_{number}.py", CLEAN_CACHE)
        result = clean.pytest("--memcached-sandbox", f"-n{count}")
        assert passed(result) == 64
        assert summary(result).endswith(f"in the fullest of {count} servers")
    return f"{count} workers at once: each had a server, and no test saw another's cache"
