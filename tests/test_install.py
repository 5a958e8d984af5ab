"""The built package, in an environment of its own, and an environment without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
import yaml

from .conftest import REPOSITORY, Run
from .helpers.processes import Result
from .helpers.projects import MakeProject, Project
from .helpers.suites import CLEAN_CACHE
from .test_readme import INSTALL, README, RECIPE

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


class Index:
    """Stands for the package index of a later day: it has the built wheel."""

    def __init__(self, environment: Environment, built: Path, folder: Path, run: Run) -> None:
        (wheel,) = built.glob("*.whl")
        constraints = folder / "constraints.txt"
        constraints.write_text(f"memcached-sandbox @ {wheel.as_uri()}\n")
        self._run = run
        self._environ = {"PATH": environment.path, "PIP_PYTHON": str(environment.python)}
        for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT"):
            self._environ[name] = str(constraints)

    def run(self, command: str, cwd: Path | None = None) -> Result:
        result = self._run("sh", "-c", command, cwd=cwd, **self._environ)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


@pytest.fixture
def index(environment: Environment, built: Path, tmp_path: Path, run: Run) -> Index:
    return Index(environment, built, tmp_path, run)


def test_install_commands_of_the_readme_succeed(index: Index) -> None:
    result = index.run(" && ".join([*INSTALL, "sandbox --version", "sandbox exec true"]))
    assert re.search(r"^memcached-sandbox \d+\.\d+\.\d+$", result.stdout, re.MULTILINE)
    assert re.search(r"^sandbox: nothing used", result.stderr, re.MULTILINE)


def test_extra_of_the_readme_brings_what_a_page_needs(
    index: Index, built: Path, tmp_path: Path
) -> None:
    (command,) = re.findall(r"`(pip install 'memcached-sandbox\[report\]')`", README)
    page = tmp_path / "page.html"
    # pip 23 finds no extra of what a constraint names.
    found_there = f"PIP_CONSTRAINT= PIP_FIND_LINKS={built}"
    index.run(f"{found_there} {command} && sandbox exec --report-html {page} true")
    assert "No operation was seen." in page.read_text()


def test_clone_can_be_installed(run: Run, environment: Environment) -> None:
    environment.install(REPOSITORY)
    assert run("sandbox", "exec", "true", PATH=environment.path).returncode == 0


@pytest.fixture
def tested_project(make_project: MakeProject) -> Project:
    project = make_project("127.0.0.1:11211")
    project.write("requirements.txt", f"django=={django.get_version()}\npymemcache\n")
    project.write("test_clean.py", CLEAN_CACHE)
    return project


# The cells of the README's table, by the first ones.
RECIPES = dict(re.findall(r"^\| ([\w, ]+) \| (.*) \|$", README, re.MULTILINE))


def test_recipe_for_ci_and_containers_passes(index: Index, tested_project: Project) -> None:
    block = "\n".join(RECIPE)
    assert f"```sh\n{block}\n```" in README
    steps = yaml.safe_load("\n".join(f"- run: {line}" for line in RECIPE))  # as of GitHub Actions
    for step in steps:
        result = index.run(step["run"], cwd=tested_project.folder)
    assert "sandbox: 336 gets (90.5 % hits)" in result.stderr


def test_recipe_for_tox_passes(index: Index, tested_project: Project) -> None:
    lines = re.findall("`(.*?)`", RECIPES["tox"])
    requirements = tested_project.folder / "requirements.txt"
    lines[0] += f"\n  -r{requirements}"
    tested_project.write("tox.ini", "[testenv]\npackage = skip\n" + "\n".join(lines) + "\n")
    tox = f"{sys.executable} -m tox run -e py"
    result = index.run(tox, cwd=tested_project.folder)
    assert "sandbox: 336 gets (90.5 % hits)" in result.stdout + result.stderr


def test_recipe_for_nox_passes(index: Index, tested_project: Project) -> None:
    (line,) = re.findall("`(.*?)`", RECIPES["nox"])
    tested_project.write(
        "noxfile.py",
        "import nox\n@nox.session\ndef tests(session):\n"
        f"    session.install('-r', 'requirements.txt', 'memcached-sandbox')\n    {line}\n",
    )
    result = index.run(
        f"env -u PIP_PYTHON {sys.executable} -m nox -db uv", cwd=tested_project.folder
    )
    assert "sandbox: 336 gets (90.5 % hits)" in result.stdout + result.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_recipe_for_make_passes(
    index: Index, environment: Environment, built: Path, tested_project: Project
) -> None:
    (line,) = re.findall("`(.*?)`", RECIPES["make"])
    tested_project.write("Makefile", f"{line}\n")
    (wheel,) = built.glob("*.whl")
    environment.install(wheel)
    result = index.run("make test", cwd=tested_project.folder)
    assert "sandbox: 336 gets (90.5 % hits)" in result.stderr


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
