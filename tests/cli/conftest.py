"""Shells for the tests of the command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import MakeProject, Project
from ..helpers.shells import Shell


@pytest.fixture
def project(make_project: MakeProject, main_memcached: MainMemcached) -> Project:
    return make_project(main_memcached.address)


@pytest.fixture
def shell() -> Iterator[Shell]:
    shell = Shell("sh")
    yield shell
    shell.end()
