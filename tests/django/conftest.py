"""A project with the Django test runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.django_runs import with_runner
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import Project


@pytest.fixture
def project(tmp_path: Path, run: Run, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project with SandboxRunner, whose main memcached must not be touched."""
    yield with_runner(Project(tmp_path, run, main_memcached.address))
    main_memcached.assert_untouched()
