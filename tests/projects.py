"""Django projects that have never heard of us, made for one test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pprint import pformat
from typing import Any

from .conftest import REPOSITORY, Run

PYMEMCACHE = "django.core.cache.backends.memcached.PyMemcacheCache"

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

    def sandboxed(self, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command under `sandbox exec`, whose options may stand before it."""
        return self._run("sandbox", "exec", *command, cwd=self.folder, **env)

    def pytest(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run pytest, in the order of the files."""
        order = [] if "randomly" in " ".join(arguments) else ["-p", "no:randomly"]
        command = [sys.executable, "-m", "pytest", *order, *arguments]
        return self._run(*command, cwd=self.folder, **env)

    def manage(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self._run("./manage.py", *arguments, cwd=self.folder, **env)

    def test(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ./manage.py test under `sandbox exec`, and have it pass."""
        result = self.sandboxed("--", "./manage.py", "test", *arguments, **env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


def passed(result: subprocess.CompletedProcess[str]) -> int:
    """How many tests have passed, if none has failed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return int(re.search(r"(\d+) passed", result.stdout)[1])


def summary(result: subprocess.CompletedProcess[str]) -> str:
    (line,) = re.findall(r"^memcached-sandbox: (\d.* gets.*)$", result.stdout, re.MULTILINE)
    return line


def header(result: subprocess.CompletedProcess[str]) -> str:
    return re.findall(r"^memcached-sandbox: (.*)$", result.stdout, re.MULTILINE)[0]


def stripped_bookshop(folder: Path) -> Path:
    """Return the example project without a word of us, and without a flush of its own."""
    bookshop = folder / "bookshop"
    shutil.copytree(REPOSITORY / "examples" / "bookshop", bookshop)
    for ours in ("conftest.py", "bookshop/test_settings.py"):
        (bookshop / ours).unlink()
    tests = bookshop / "books" / "tests.py"
    tests.write_text(
        re.sub(r"    def setUp.*?\n\n", "    pass\n", tests.read_text(), flags=re.DOTALL)
    )
    for path in bookshop.rglob("*.py"):
        assert "sandbox" not in path.read_text()
    manage = bookshop / "manage.py"
    manage.write_text(
        manage.read_text().replace(
            'if __name__ == "__main__":\n',
            'if __name__ == "__main__":\n'
            "    import multiprocessing\n"
            '    multiprocessing.set_start_method(os.environ.get("START_METHOD"))\n',
        )
    )
    return bookshop
