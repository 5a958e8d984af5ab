"""Makes Django projects that do not know this package, one for each test."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from pprint import pformat
from typing import TYPE_CHECKING, Any

from ..conftest import REPOSITORY, Run
from .processes import Result, found

if TYPE_CHECKING:
    import pytest

PYMEMCACHE = "django.core.cache.backends.memcached.PyMemcacheCache"

# Plugins of this environment that these projects do not use: they take a third of a run's time.
UNUSED_PLUGINS = (
    *("cacheprovider", "flaky", "forked", "hypothesispytest", "pytest-retry", "randomly"),
    *("rerunfailures", "timeout"),
)
XDIST = ("xdist", "xdist.looponfail")

MANAGE = """\
#!{python}
import os, sys

if __name__ == "__main__":
    import multiprocessing
    if os.environ.get("START_METHOD"):
        multiprocessing.set_start_method(os.environ["START_METHOD"])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)
"""

SETTINGS = """\
SECRET_KEY = "only for tests"
USE_TZ = True
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
CACHES = {caches}
"""


MakeProject = Callable[[Any], "Project"]


class Project:
    """A project in a folder of its own, with one cache or those that are given."""

    def __init__(self, folder: Path, run: Run, caches: Any) -> None:
        if isinstance(caches, str):
            caches = {"default": {"BACKEND": PYMEMCACHE, "LOCATION": caches}}
        self.folder = folder
        self._run = run
        self.python: str | Path = sys.executable
        self.write("settings.py", SETTINGS.format(caches=pformat(caches, sort_dicts=False)))
        self.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
        self.write("manage.py", MANAGE.format(python=self.python))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def sandboxed(self, *command: str | Path, **env: str) -> Result:
        """Run a command under `sandbox exec`, whose options may stand before it."""
        return self._run("sandbox", "exec", *command, cwd=self.folder, **env)

    def pytest(self, *arguments: str, **env: str) -> Result:
        """Run pytest, in the order of the files."""
        return self._run(*pytest_command(*arguments), cwd=self.folder, **env)

    def manage(self, *arguments: str, **env: str) -> Result:
        return self._run("./manage.py", *arguments, cwd=self.folder, **env)

    def test(self, *arguments: str, **env: str) -> Result:
        """Run ./manage.py test under `sandbox exec`, and have it pass."""
        result = self.sandboxed("--", "./manage.py", "test", *arguments, **env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


class InProcess:
    """A folder whose tests pytest runs within this process, with the Django that it has.

    Use it where neither processes, nor settings, nor pytest-django matter.
    """

    def __init__(self, pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str]) -> None:
        self._pytester = pytester
        self._capfd = capfd  # sees what child processes write, too
        self.folder = pytester.path
        self.write("pytest.ini", "[pytest]\nmemcached_sandbox = true\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def pytest(self, *arguments: str) -> Result:
        command = pytest_command("-pno:django", "-pno:faulthandler", *arguments)
        load_all_modules()
        self._capfd.readouterr()
        status = self._pytester.runpytest_inprocess(*command[3:]).ret
        return Result(command, status, *self._capfd.readouterr())


def load_all_modules() -> None:
    """Load every module of this package before pytester runs pytest.

    Afterwards pytester removes from sys.modules what the run has loaded. A later run would load
    these modules again, while older modules keep the first copy.
    """
    for package in ("sandbox", "_memcached_sandbox"):
        path = import_module(package).__path__
        for module in walk_packages(path, f"{package}."):
            if not module.name.startswith(("sandbox.inject.", "sandbox.__main__")):
                import_module(module.name)


def pytest_command(*arguments: str) -> list[str]:
    """Return the command of pytest with no plugin that these arguments do not need."""
    words = " ".join(arguments)
    blocked = [name for name in UNUSED_PLUGINS if name not in words]
    if not any(word.startswith(("-n", "--dist", "--tx")) for word in arguments):
        blocked += XDIST
    return [sys.executable, "-m", "pytest", *(f"-pno:{name}" for name in blocked), *arguments]


def passed(result: Result) -> int:
    """How many tests have passed, if none has failed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return int(found(r"(\d+) passed", result.stdout)[1])


def summary(result: Result) -> str:
    (line,) = re.finditer(r"^memcached-sandbox: (\d.* gets?.*)$", result.stdout, re.MULTILINE)
    return line[1]


def header(result: Result) -> str:
    return found(r"(?m)^memcached-sandbox: (.*)$", result.stdout)[1]


def stripped_bookshop(folder: Path) -> Path:
    """Return the example project without this package, and without a flush of its own."""
    bookshop = folder / "bookshop"
    shutil.copytree(REPOSITORY / "examples" / "bookshop", bookshop)
    own = ("conftest.py", "bookshop/test_settings.py")
    for name in (*own, "books/test_operations.py", "books/test_outages.py"):
        (bookshop / name).unlink()
    tests = bookshop / "books" / "tests.py"
    tests.write_text(
        re.sub(r"    def setUp.*?\n\n", "    pass\n", tests.read_text(), flags=re.DOTALL)
    )
    for path in bookshop.rglob("*.py"):
        assert "sandbox" not in path.read_text()
    return bookshop
