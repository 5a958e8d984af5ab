"""Gets a memcached for this user, without root: ``sandbox install``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import InstallError
from ..server import installed, installer
from ..server.binary import find_elsewhere, package_manager, system_command
from ..server.version import UNKNOWN, ask_version
from .output import say

if TYPE_CHECKING:
    from types import FrameType


@click.command("install")
@click.option(
    "--suite",
    metavar="NAME",
    help="Install the memcached of this suite of Debian or Ubuntu, such as trixie.",
)
@click.option("--upgrade", is_flag=True, help="Replace what is installed by a newer version.")
@click.option("--remove", is_flag=True, help="Remove what was installed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def command(suite: str | None, upgrade: bool, remove: bool, as_json: bool) -> None:
    """Get a memcached without root, and start nothing.

    On Debian and Ubuntu, apt downloads and verifies it. It is kept in ~/.local/share, and run if
    this machine has no other one. Elsewhere, Homebrew installs it.

    With --suite it is that of another release, with the libraries of that release. It is run by its
    name, with --memcached or in MEMCACHED_SANDBOX_BINARY.

    \b
        sandbox install
        sandbox install --suite trixie
        sandbox exec --memcached trixie -- ./manage.py test
    """
    if upgrade and remove:
        raise click.UsageError("Give either --upgrade or --remove.")
    if suite is not None and not installed.is_suite(suite):
        raise click.UsageError(f"--suite {suite}: a suite has a name such as trixie or noble.")
    wanted = "remove" if remove else "upgrade" if upgrade else "install"
    manager = package_manager()
    if manager == "apt-get":
        entry = _with_apt(suite, wanted)
    elif suite is not None:
        raise click.UsageError(f"--suite {suite}: suites are those of apt, which is not here.")
    elif manager == "brew":
        entry = _with_homebrew(wanted)
    else:
        raise InstallError(
            f"'sandbox install' needs apt or Homebrew: install memcached with {system_command()}"
        )
    if as_json:
        click.echo(json.dumps(entry, indent=2))


def _with_apt(suite: str | None, wanted: str) -> dict[str, Any]:
    name = suite or installed.own_suite()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)
    if wanted == "remove":
        if installer.remove(name):
            say(f"the memcached of {name} is removed from {installed.data_folder()}.")
            return _entry(changed=True)
        others = ", ".join(found.suite for found in installed.installed())
        there = f"; there is that of {others}, for --suite" if others else ""
        say(f"no memcached of {name} is in {installed.data_folder()}: nothing to remove{there}.")
        return _entry()
    if suite is None and installed.find(name) is None and (path := find_elsewhere()):
        return _nothing_to_install(path)
    found, changed = installer.install(name, wanted == "upgrade", say)
    about = f"memcached {found.version}, package {found.package} of {name}, is"
    if changed:
        usage = f"; run it with --memcached {name}" if suite else ""
        say(f"{about} installed in {installed.data_folder()}{usage}.")
    else:
        newest = " the newest, and" if wanted == "upgrade" else ""
        say(f"{about}{newest} there, in {installed.data_folder()}: nothing to {wanted}.")
    return _entry(found.command, found.version, found.suite, found.package, changed)


def _with_homebrew(wanted: str) -> dict[str, Any]:
    path = find_elsewhere()
    if wanted == "remove":  # It may be the developer's own.
        raise InstallError(
            "Homebrew keeps memcached for all programs: run 'brew uninstall memcached'"
        )
    if wanted == "install" and path:
        return _nothing_to_install(path)
    before = path and ask_version([path]).version
    words = ["brew", wanted, "memcached"]
    say(f"running {' '.join(words)} ...")
    # Its output is progress: stdout is for JSON.
    if status := subprocess.call(words, stdout=sys.stderr):
        raise InstallError(f"'{' '.join(words)}' failed with exit code {status}")
    if (path := find_elsewhere()) is None:
        raise InstallError(f"'{' '.join(words)}' succeeded, but there is no memcached")
    version = ask_version([path]).version
    say(f"memcached {version or UNKNOWN} is there, {path}.")
    return _entry([path], version, changed=version != before)


def _nothing_to_install(path: str) -> dict[str, Any]:
    version = ask_version([path]).version
    say(f"memcached {version or UNKNOWN} is there, {path}: nothing to install.")
    return _entry([path], version)


def _entry(
    command: Sequence[str] = (),
    version: str | None = None,
    suite: str | None = None,
    package: str | None = None,
    changed: bool = False,
) -> dict[str, Any]:
    return {
        "suite": suite,
        "version": version,
        "package": package,
        "command": [*command],
        "changed": changed,
    }


def _exit(number: int, _: FrameType | None) -> None:
    """Ends this process by an exception, so that nothing is left of what it was doing."""
    sys.exit(128 + number)
