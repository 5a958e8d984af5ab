"""Finds the memcacheds that ``sandbox install`` has put into the user's data folder.

Each is a folder, named after its suite, that a symbolic link leads to:

    trixie -> .trixie-k3v9x2q1
    .trixie-k3v9x2q1/
        memcached    what is executed: a link to the loader or, without lib, to bin/memcached
        bin/memcached
        lib/         the shared libraries that the system lacks
        version      memcached's version and that of its package, in a line
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# Names of suites of Debian and Ubuntu: no path, no option, nothing that a list of sources parses.
SUITE = re.compile(r"[a-z][a-z0-9.-]*")


# The option of ld.so(8) after which an executable and its arguments follow.
LIBRARY_PATH = "--library-path"


class Installed(NamedTuple):
    """Describes an installed memcached: the suite it is of, its version and its package's."""

    suite: str
    version: str
    package: str
    command: tuple[str, ...]


def data_folder() -> str | None:
    """Returns the folder of what this package installs for the user.

    As the XDG Base Directory Specification has it: a relative path is ignored.

    :returns: None for a user without a home.
    """
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/share")
    return os.path.join(base, "memcached-sandbox") if os.path.isabs(base) else None


def is_suite(name: str) -> bool:
    """Returns whether a suite may be called so."""
    return SUITE.fullmatch(name) is not None


def own_suite() -> str:
    """Returns the name of the suite that this system runs, from os-release(5).

    :returns: "system" if it has none.
    """
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                match = re.search(r'^VERSION_CODENAME="?([^"\n]*)"?$', file.read(), re.MULTILINE)
        except OSError:
            continue
        return match[1] if match and is_suite(match[1]) else "system"
    return "system"


def find(suite: str) -> Installed | None:
    """Returns the installed memcached of a suite, or None.

    What another user has put there is passed over: it would run as this one.
    """
    data = data_folder()
    if data is None or not is_suite(suite):
        return None
    folder = os.path.join(data, suite)
    try:
        return read(folder) if os.stat(folder).st_uid == os.geteuid() else None
    except (OSError, ValueError):
        return None


def read(folder: str) -> Installed:
    """Returns what is in a folder of an installed memcached.

    :raises OSError: there is no such folder.
    :raises ValueError: its file `version` is malformed.
    """
    with open(f"{folder}/version", encoding="ascii") as file:
        version, package = file.read().split()
    return Installed(os.path.basename(folder), version, package, command_in(folder))


def installed() -> list[Installed]:
    """Returns the installed memcacheds in the order of their suites' names."""
    if (data := data_folder()) is None:
        return []
    try:
        names = sorted(os.listdir(data))
    except OSError:
        return []
    return [found for name in names if (found := find(name)) is not None]


def default() -> Installed | None:
    """Returns the memcached to run if no other is found: this system's, or else the newest."""
    if (own := find(own_suite())) is not None:
        return own
    return max(installed(), key=lambda found: _numbers(found.version), default=None)


def command_in(folder: str) -> tuple[str, ...]:
    """Returns the command that runs the memcached in a folder.

    With libraries, it is the loader that is executed, as in ld.so(8): no shell is in between.
    """
    executable, libraries = f"{folder}/memcached", f"{folder}/lib"
    if not os.path.isdir(libraries):
        return (executable,)
    return (executable, LIBRARY_PATH, libraries, f"{folder}/bin/memcached")


def remedy(executable: str) -> str:
    """Returns what helps if an executable does not run."""
    folder = os.path.dirname(executable)
    data, suite = os.path.split(folder)
    if data == data_folder():
        return f"run 'sandbox install --suite {suite}' to replace it"
    return "name another memcached in MEMCACHED_SANDBOX_BINARY"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
