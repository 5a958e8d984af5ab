from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import django
import psutil
import pytest

from sandbox import Memcached

if TYPE_CHECKING:
    from .projects import MakeProject, Project

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def run_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Where the sandboxes of a test have their run directories: none may be left after it.

    Nor may a child process of ours.
    """
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    for name in [name for name in os.environ if name.startswith("MEMCACHED_SANDBOX")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}")
    children = set(psutil.Process().children())
    yield folder
    eventually(lambda: list(folder.glob("memcached-sandbox-*")) == [])
    assert set(psutil.Process().children()) <= children


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command to its end, in a folder of its own, and return what became of it."""

    def run(
        *command: str | Path, cwd: Path = tmp_path, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def python(run: Run) -> Run:
    """Run a Python script of ours, given as its text, in a process of its own."""

    def python(script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, "-c", script, *arguments, **env)

    return python


@pytest.fixture
def make_project(tmp_path: Path, run: Run) -> MakeProject:
    from .projects import Project

    return lambda caches: Project(tmp_path, run, caches)


@pytest.fixture
def plain(make_project: MakeProject) -> Project:
    """A folder whose tests are run in a sandbox by pytest, without pytest-django."""
    project = make_project("127.0.0.1:11211")
    project.write("pytest.ini", "[pytest]\naddopts = -p no:django\nmemcached_sandbox = true\n")
    return project


class MainMemcached:
    """A stand-in for the memcached of a developer, who is working with it."""

    COUNTERS = ("cmd_get", "cmd_set", "cmd_flush", "cmd_touch", "cmd_meta", "total_connections")

    def __init__(self, server: Memcached) -> None:
        self.server = server
        self.address = server.address
        with closing(server.client()) as client:
            client.set("canary", "sings", noreply=False)
        self._before = self._counters()

    def _counters(self) -> dict[str, int]:
        stats = self.server.stats()
        return {name: int(stats[name]) for name in self.COUNTERS}

    def assert_untouched(self) -> None:
        after = self._counters()
        # One connection more is the one that asked for these very counters.
        expected = {**self._before, "total_connections": self._before["total_connections"] + 1}
        assert after == expected
        with closing(self.server.client()) as client:
            assert client.get("canary") == b"sings"


@pytest.fixture
def main_memcached(run_folder: Path) -> Iterator[MainMemcached]:
    with Memcached() as server:
        yield MainMemcached(server)


def is_running(pid: int) -> bool:
    """Whether a process runs: one that waits for its parent to take notice has ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], object], timeout: float = 5) -> None:
    """Wait for what another process does, where nothing tells us when it has."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_until_gone(*pids: int) -> None:
    """Wait for the end of processes, our children or not; fail if one lives on."""
    eventually(lambda: not any(map(is_running, pids)))


def pytest_configure() -> None:
    # Who runs us in the background may have us ignore these, and what we ignore our children do.
    for name in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(name) is signal.SIG_IGN:
            signal.signal(name, signal.SIG_DFL)

    from django.conf import settings

    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF="tests.views",
        INSTALLED_APPS=["django.contrib.sessions"],
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        USE_TZ=True,
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    )
    django.setup()
