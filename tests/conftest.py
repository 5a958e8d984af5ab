from __future__ import annotations

import faulthandler
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import psutil
import pytest

from .helpers.cli import Cli
from .helpers.memcacheds import MainMemcached
from .helpers.processes import Result, eventually, run_command

if TYPE_CHECKING:
    from .helpers.projects import InProcess, MakeProject, Project

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent
STDERR = pytest.StashKey[int]()  # that of pytest, which captures the one of each test
OWN_FOLDER = pytest.StashKey[str]()  # of the files of all tests, if no --basetemp names another

Run = Callable[..., Result]


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of a test, whose path is short enough for those of Unix sockets."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(autouse=True)
def coverage_of_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures the processes of one case of each test: it costs 0.15 s for each Python.

    Further cases of a test reach hardly more lines, nor do tests that are slow.
    """
    cases = getattr(request.node, "callspec", None)
    is_further_case = cases is not None and any(cases.indices.values())
    if is_further_case or request.node.get_closest_marker("slow") is not None:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(autouse=True)
def run_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Where the sandboxes of a test have their run directories: none may be left after it.

    Nor may a child process of this one.
    """
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("TMPDIR", str(folder))
    children = set(psutil.Process().children())
    yield folder
    eventually(lambda: list(folder.glob("memcached-sandbox-*")) == [])
    assert set(psutil.Process().children()) <= children


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command to its end, in a folder of its own, and return what became of it."""
    return partial(run_command, cwd=tmp_path)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], run_folder: Path
) -> Cli:
    """Run `sandbox` within this process."""
    return Cli(monkeypatch, capfd, run_folder)


@pytest.fixture
def python(run: Run) -> Run:
    """Run a Python script, given as its text, in a process of its own."""

    def python(script: str, *arguments: str, **env: str) -> Result:
        return run(sys.executable, "-c", script, *arguments, **env)

    return python


@pytest.fixture
def make_project(tmp_path: Path, run: Run) -> MakeProject:
    from .helpers.projects import Project

    return lambda caches: Project(tmp_path, run, caches)


@pytest.fixture
def plain(make_project: MakeProject) -> Project:
    """A folder whose tests are run in a sandbox by pytest, without pytest-django."""
    project = make_project("127.0.0.1:11211")
    project.write("pytest.ini", "[pytest]\naddopts = -p no:django\nmemcached_sandbox = true\n")
    return project


@pytest.fixture
def in_process(pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str]) -> InProcess:
    """A folder whose tests pytest runs within this process: see `InProcess`."""
    from .helpers.projects import InProcess

    return InProcess(pytester, capfd)


@pytest.fixture
def django_in_process(in_process: InProcess, main_memcached: MainMemcached) -> Iterator[InProcess]:
    """The same, with Django's cache at a main memcached, which must not be connected to once."""
    from django.test import override_settings

    from .helpers.projects import PYMEMCACHE

    location = {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address}
    with override_settings(CACHES={"default": location}):
        yield in_process
    main_memcached.assert_untouched()


@pytest.fixture
def main_memcached(run_folder: Path) -> Iterator[MainMemcached]:
    with MainMemcached() as main:
        yield main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what `sandbox install` brings. It is not there yet, nor are its parents."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "a/b"))
    return tmp_path / "a/b/memcached-sandbox"


@pytest.fixture
def without_memcached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path) -> Path:
    """A folder that is all of PATH, on a machine that has no memcached elsewhere."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("sandbox.server.binary.USUAL_FOLDERS", ())
    monkeypatch.setattr("sys.prefix", "/nowhere")
    return folder


# Variables about this run of pytest, or a sandbox around it: no child of a test inherits them.
ABOUT_THIS_RUN = ("MEMCACHED_SANDBOX", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("XDG_RUNTIME_DIR", None)  # it would come before TMPDIR
    for name in [name for name in os.environ if name.startswith(ABOUT_THIS_RUN)]:
        del os.environ[name]
    os.environ["PATH"] = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    config.stash[STDERR] = os.dup(2)
    faulthandler.enable(config.stash[STDERR])
    # A process in the background may ignore these signals, and its children inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if config.option.basetemp is None:
        # The default folder has the user's name in it: too long for the path of a Unix socket.
        config.option.basetemp = tempfile.mkdtemp(prefix="tests-", dir=os.path.realpath("/tmp"))
        config.stash[OWN_FOLDER] = config.option.basetemp
    configure_django()


class PatientSys:
    """The module sys for threading, whose threads wait until they can be traced by coverage.

    Python 3.11 refuses a trace function while another thread installs one, and an audit hook makes
    that take long enough to be seen: _PyEval_SetTrace() in ceval.c.
    """

    def __getattr__(self, name: str) -> object:
        return getattr(sys, name)

    def settrace(self, function: Any) -> None:
        while True:
            try:
                return sys.settrace(function)
            except RuntimeError:
                os.sched_yield()


threading._sys = PatientSys()  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove the files of tests that have all passed."""
    if exitstatus == 0 and (folder := session.config.stash.get(OWN_FOLDER, None)):
        shutil.rmtree(folder)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-timeout counts
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with ExitStack() as stack:
        if item.get_closest_marker("whole_machine"):
            stack.enter_context(whole_machine())
        if seconds := time_limit(item):
            # A test that hangs within C does not see pytest-timeout's signal: end the process.
            stderr = item.config.stash[STDERR]
            faulthandler.dump_traceback_later(seconds + 10, exit=True, file=stderr)
            stack.callback(faulthandler.cancel_dump_traceback_later)
        return (yield)


@contextmanager
def whole_machine() -> Iterator[None]:
    """Wait until no other test looks at all sandboxes of this machine.

    Neither in another worker, nor in another run of these tests. A group of pytest-xdist would not
    do: pytest 9.2 ignores it (pytest-xdist's issue 1386), and another run does not know it.
    """
    folder = os.open("/tmp", os.O_RDONLY)  # any that all runs have in common
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def time_limit(item: pytest.Item) -> float:
    """Return how many seconds pytest-timeout gives a test, or 0 if it sets no limit."""
    if item.config.getoption("usepdb"):
        return 0
    if marker := item.get_closest_marker("timeout"):
        return float(marker.kwargs["timeout"] if marker.kwargs else marker.args[0])
    option = item.config.getoption("timeout")
    return float(item.config.getini("timeout") if option is None else option)


def configure_django() -> None:
    from django.conf import settings

    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF="tests.helpers.views",
        INSTALLED_APPS=["django.contrib.sessions"],
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        USE_TZ=True,
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    )
    django.setup()
