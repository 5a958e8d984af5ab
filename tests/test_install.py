"""The built package, in an environment of its own, and an environment without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from .conftest import REPOSITORY, Run
from .helpers.projects import MakeProject
from .helpers.suites import CLEAN_CACHE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # the package index may be slow
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was made of that."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--installer", "uv", "--outdir"]
    subprocess.run([*command, folder, REPOSITORY], check=True, capture_output=True)
    return folder


class Environment:
    """A virtual environment with what a project needs, and no pip of its own."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        self.install(f"django=={django.get_version()}", "pytest-django", "pymemcache")

    def install(self, *what: str | Path) -> None:
        self._uv("install", *what)

    def remove_package(self) -> None:
        """Remove it, and what came with it."""
        self._uv("uninstall", "memcached-sandbox", "click", "psutil")

    def _uv(self, *words: str | Path) -> None:
        subprocess.run(["uv", "pip", *words, "--quiet", "--python", self.python], check=True)

    @property
    def path(self) -> str:
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def shared_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def environment(shared_environment: Environment) -> Iterator[Environment]:
    """The environment, without this package before the test and after it."""
    yield shared_environment
    shared_environment.remove_package()


def test_environment_without_the_package_runs_its_tests(
    make_project: MakeProject, run: Run, environment: Environment
) -> None:
    """`sandbox exec` comes from another environment, as it does with pipx."""
    for name in ("sandbox", "click", "psutil"):
        assert run(environment.python, "-c", f"import {name}").returncode == 1
    project = make_project("127.0.0.1:11211")
    project.write("test_clean.py", CLEAN_CACHE)
    for command in (["manage.py", "test", "--parallel", "2"], ["-m", "pytest"]):
        result = project.sandboxed("--", environment.python, *command)
        assert result.returncode == 0, result.stdout + result.stderr


def test_install_command_of_the_readme_succeeds(
    run: Run, environment: Environment, built: Path, tmp_path: Path
) -> None:
    """The built wheel takes the place of the one on the package index."""
    (wheel,) = built.glob("*.whl")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"memcached-sandbox @ {wheel.as_uri()}\n")
    result = run(
        "sh", "-c", "pip install memcached-sandbox && sandbox --version && sandbox exec true",
        PATH=environment.path, PIP_PYTHON=str(environment.python),
        PIP_CONSTRAINT=str(constraints),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert re.search(r"^memcached-sandbox \d+\.\d+\.\d+$", result.stdout, re.MULTILINE)
    assert re.search(r"^sandbox: nothing used", result.stderr, re.MULTILINE)


def test_source_distribution_can_be_installed(
    run: Run, environment: Environment, built: Path
) -> None:
    (archive,) = built.glob("*.tar.gz")
    environment.install(archive)
    result = run("sandbox", "exec", "true", PATH=environment.path)
    assert result.stderr.startswith("sandbox: nothing used"), result.stderr
    help_of_pytest = run(environment.python, "-m", "pytest", "--help", PATH=environment.path)
    assert "--memcached-sandbox" in help_of_pytest.stdout


def test_wheel_and_archive_have_the_files_of_git(built: Path) -> None:
    """The wheel has the package as git knows it, and the archive has all other files, too."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no clone: git does not know what belongs to the package")
    # In a container the clone may belong to another user, which git does not trust by itself.
    git = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others"]
    command = [*git, "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    # git still lists a file that was removed and not yet committed.
    tracked = {name for name in listed.stdout.splitlines() if (REPOSITORY / name).exists()}
    package = {name for name in tracked if name.startswith("sandbox/")}
    assert "sandbox/py.typed" in package
    (archive,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert {name for name in file.namelist() if ".dist-info/" not in name} == package
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert names - {"PKG-INFO"} == tracked


def test_metadata_is_valid(run: Run, built: Path) -> None:
    result = run("twine", "check", "--strict", *built.iterdir())
    assert result.returncode == 0, result.stdout
