"""Projects for the tests of the plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import MakeProject, Project


@pytest.fixture
def off_project(make_project: MakeProject, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project that does not turn the plugin on; nothing may connect to its main memcached."""
    yield make_project(main_memcached.address)
    main_memcached.assert_untouched()


@pytest.fixture
def project(off_project: Project) -> Project:
    """The same project, with the plugin turned on in its ini file."""
    ini = (off_project.folder / "pytest.ini").read_text()
    off_project.write("pytest.ini", f"{ini}memcached_sandbox = true\n")
    return off_project


@pytest.fixture(autouse=True)
def unix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variable with which the tests in LIMITS expect a Unix socket."""
    monkeypatch.delenv("UNIX", raising=False)
