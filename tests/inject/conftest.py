"""A project for `sandbox exec`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import MakeProject, Project


@pytest.fixture
def project(make_project: MakeProject, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project on a main memcached, to which no process may connect."""
    yield make_project(main_memcached.address)
    main_memcached.assert_untouched()
