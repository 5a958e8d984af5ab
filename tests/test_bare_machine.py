"""A machine with Python alone: an ordinary user runs the example there, and gets memcached."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.server.installed import own_suite

from .conftest import REPOSITORY
from .helpers.installs import SYSTEM_MEMCACHED, needs_apt
from .helpers.processes import Result, found, run_command
from .helpers.users import ANOTHER_USER, INTERPRETER, as_root, stripped

pytestmark = [
    as_root,  # who hides what this machine has
    needs_apt,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # the archive and the package index may be slow
]

# A later suite, for each that may be the system's: it has another C library.
LATER = {"bookworm": "trixie", "jammy": "noble", "noble": "plucky"}

# How this machine reaches the index.
OF_NETWORK = ("SSL_CERT_FILE", "PIP_CERT", "PIP_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")

SUMMARY = r"(?m)^sandbox: 40 gets \(47\.5 % hits\), 23 sets"


class BareMachine:
    """Runs commands as an ordinary user who has a checkout, but no ensurepip and no memcached."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "Bücher und mehr"
        self.home = folder / "home"
        self.data = self.home / ".local/share/memcached-sandbox"
        git = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), "ls-files", "-z"]
        listed = subprocess.check_output([*git, "-co", "--exclude-standard"], text=True)
        for name in filter(None, listed.split("\0")):
            if (REPOSITORY / name).exists():  # git still lists a file that was removed
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, self.checkout / name)
        for path in (self.home, folder / "nothing"):
            path.mkdir()
        subprocess.run(["chown", "-R", f"{ANOTHER_USER}:{ANOTHER_USER}", folder], check=True)
        hidden = [f"mount --bind /dev/null {shlex.quote(os.path.realpath(SYSTEM_MEMCACHED))}"]
        located = subprocess.run(
            [INTERPRETER, "-c", "import ensurepip; print(*ensurepip.__path__)"],
            capture_output=True,
            text=True,
            check=False,
        )
        if ensurepip := located.stdout.strip():
            hidden.append(f"mount --bind {folder}/nothing {ensurepip}")
        environ = {name: os.environ[name] for name in OF_NETWORK if name in os.environ}
        environ |= {"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        environ |= {"PYTHON": INTERPRETER}
        self._before = (
            *stripped("; ".join(hidden)),
            *("setpriv", "--reuid", str(ANOTHER_USER), "--regid", str(ANOTHER_USER)),
            *("--clear-groups", "env", "-i", *(f"{name}={environ[name]}" for name in environ)),
        )

    def run(self, *command: str, folder: str = ".") -> Result:
        """Run a command in a folder of the checkout."""
        return run_command(*self._before, *command, cwd=self.checkout / folder)

    def sandbox(self, *arguments: str, folder: str = ".") -> Result:
        return self.run(f"{self.checkout}/.venv/bin/sandbox", *arguments, folder=folder)


@pytest.fixture
def machine() -> Iterator[BareMachine]:
    if not os.path.exists(INTERPRETER):
        pytest.skip("there is no python3 that every user may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield BareMachine(Path(folder))


def skip_without_archive(result: Result) -> None:
    if "Could not resolve" in result.stderr or "Temporary failure" in result.stderr:
        pytest.skip(f"there is no archive here: {result.stderr.splitlines()[-1]}")


def test_example_runs_without_root(machine: BareMachine) -> None:
    """The first command of the README, and then all that `sandbox install` does: one story."""
    result = machine.run("sh", "examples/run")
    skip_without_archive(result)
    assert result.returncode == 0, result.stderr
    found(SUMMARY, result.stderr)
    suite = own_suite()
    version = found(
        rf"(?m)^sandbox: memcached (\S+), package \S+ of {suite}, is in", result.stderr
    )[1]
    again = machine.run("sh", "examples/run")
    assert again.returncode == 0
    assert "install" not in (again.stdout + again.stderr).lower()
    listed = machine.sandbox("exec", "-q", "--", f"{machine.checkout}/.venv/bin/sandbox", "list")
    found(rf" {version} +0\.0 of 64 MB", listed.stdout)
    there = machine.sandbox("install", "--json")
    assert f"of {suite}, is there, in {machine.data}: nothing to install." in there.stderr
    assert json.loads(there.stdout)["command"][0] == f"{machine.data}/{suite}/memcached"
    for package, is_newer in (("0.9-1", True), ("9:1-1", False)):
        upgrade_takes_a_newer_package_only(machine, package, is_newer)
    if later := LATER.get(suite):
        example_runs_on_a_later_suite(machine, later, version)
    removed = machine.sandbox("install", "--remove")
    assert removed.returncode == 0, removed.stderr
    assert not machine.data.exists()
    missing = machine.sandbox("exec", "true")
    assert missing.returncode == 125
    assert "'sandbox install' gets one without root" in missing.stderr


def upgrade_takes_a_newer_package_only(machine: BareMachine, package: str, is_newer: bool) -> None:
    """Check an upgrade of what is said to be a package of some version."""
    link = machine.data / own_suite()
    before, version = link.resolve(), (link / "version").read_text()
    (before / "version").write_text(f"1.6.99 {package}\n")
    result = machine.sandbox("install", "--upgrade")
    assert result.returncode == 0, result.stderr
    assert (" is the newest, and there, in " in result.stderr) == (not is_newer)
    assert before.exists() == (not is_newer)
    assert (link / "version").read_text() == (version if is_newer else f"1.6.99 {package}\n")


def example_runs_on_a_later_suite(machine: BareMachine, suite: str, own_version: str) -> None:
    """Check the tests of the example on the memcached of a suite, and remove that."""
    result = machine.sandbox("install", "--suite", suite, "--json")
    assert result.returncode == 0, result.stderr
    version = json.loads(result.stdout)["version"]
    assert version != own_version
    words = ("--memcached", suite, "-v", "--", f"{machine.checkout}/.venv/bin/python")
    result = machine.sandbox("exec", *words, "manage.py", "test", folder="examples/bookshop")
    assert result.returncode == 0, result.stderr
    found(SUMMARY, result.stderr)
    assert f"{machine.data}/{suite}/memcached --library-path" in result.stderr
    found(rf"(?m)^installed +{suite}, memcached {version}", machine.sandbox("doctor").stdout)
    assert machine.sandbox("install", "--remove", "--suite", suite).returncode == 0


@pytest.mark.parametrize("options", ["noexec,size=99m", "size=100k", "size=12m"])
def test_folder_that_cannot_hold_programs_is_named(options: str) -> None:
    suite = own_suite()
    if options == "size=12m" and not (suite := LATER.get(suite, "")):  # its lists do not fit
        pytest.skip("no later suite is known")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        mount = stripped(f"mount -t tmpfs -o {options} none {folder}")
        install = ("sandbox", "install", "--suite", suite)
        show = ("sh", "-c", f"{shlex.join(install)}; echo $?; ls -A {folder}")
        result = run_command(*mount, *show, XDG_DATA_HOME=folder)
    skip_without_archive(result)
    assert result.stdout == "125\n"
    line = result.stderr.splitlines()[-1]
    data = f"{folder}/memcached-sandbox"
    if "noexec" in options:
        assert line.startswith(f"sandbox: {data} allows no programs, as if mounted with noexec: ")
    else:
        assert line.startswith(f"sandbox: the disk of {data} is full: free some space, or ")
