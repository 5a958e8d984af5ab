"""Finds the memcached executable, or says how to get one."""

from __future__ import annotations

import os
import sys

from ..errors import BinaryError

NAME = "memcached"

# Where packages put memcached without every PATH having it: sbin is missing from many
# users' PATH, and Homebrew's folders from that of programs started by the desktop.
USUAL_FOLDERS = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/opt/homebrew/bin",
    "/opt/homebrew/opt/memcached/bin",
    "/usr/local/opt/memcached/bin",
    "/home/linuxbrew/.linuxbrew/bin",
)

# In the order in which they are looked for: Homebrew comes last, as Linux machines have it too.
INSTALL_COMMANDS = {
    "apt-get": "apt-get install memcached",
    "dnf": "dnf install memcached",
    "apk": "apk add memcached",
    "pacman": "pacman -S memcached",
    "zypper": "zypper install memcached",
    "brew": "brew install memcached",
}

# The package managers that `sandbox install` uses.
WITHOUT_ROOT = ("apt-get", "brew")


def find_memcached(
    binary: str | os.PathLike[str] | None = None, spelled: str = ""
) -> tuple[str, ...]:
    """Returns the command that runs memcached, without options for it.

    :param binary: a path, a name to look for on PATH, or a suite of ``sandbox install --suite``.
        None for ``$MEMCACHED_SANDBOX_BINARY`` or, without that, the first ``memcached`` in this
        Python's environment, on PATH, in the folders where packages put it, and in what
        ``sandbox install`` has brought.
    :param spelled: how the binary was typed, if not in Python.
    :raises BinaryError: it is not there, or is no executable file.
    """
    variable = os.environ.get("MEMCACHED_SANDBOX_BINARY")
    wanted = os.fspath(binary) if binary is not None else variable
    if not wanted:
        return _first_found()
    if binary is None:
        spelled = f"MEMCACHED_SANDBOX_BINARY={wanted}"
    named = f"{spelled}: the memcached binary {wanted!r}".removeprefix(": ")
    if os.sep not in wanted:
        return _on_path_or_installed(wanted, spelled, named)
    if not os.path.exists(wanted):
        raise BinaryError(f"{named} does not exist", f"correct the path; {how_to_install()}")
    if not _is_executable(wanted):
        raise BinaryError(
            f"{named} is not an executable file", "correct the path, or allow it with 'chmod +x'"
        )
    return (os.path.abspath(wanted),)


def find_elsewhere() -> str | None:
    """Returns the path of the memcached that ``sandbox install`` did not bring; None without."""
    own = os.path.join(sys.prefix, "bin")
    # The folders of the system's own Python come when it is their turn.
    environment = [] if own in USUAL_FOLDERS else [own]
    return _first_executable(NAME, [*environment, *os.get_exec_path(), *USUAL_FOLDERS])


def package_manager() -> str | None:
    """Returns the package manager of this system, as in `INSTALL_COMMANDS`; None if unknown."""
    return next(filter(find_tool, INSTALL_COMMANDS), None)


def system_command() -> str:
    """Returns the command that installs memcached for the whole system."""
    manager = package_manager()
    if manager is None:
        return "your system's package manager"
    command = INSTALL_COMMANDS[manager]
    return f"'sudo {command}'" if manager != "brew" and os.geteuid() != 0 else f"'{command}'"


def how_to_install() -> str:
    """Returns how to get a memcached on this system."""
    manager = package_manager()
    if manager not in WITHOUT_ROOT:
        return f"install it with {system_command()}"
    # Debian's and Ubuntu's package starts a service: debian/memcached.service, deb-systemd-invoke.
    price = ", but starts one on port 11211 for everybody" if manager == "apt-get" else ""
    return (
        "'sandbox install' gets one without root, and starts nothing; "
        f"{system_command()} gets one as well{price}"
    )


def _first_found() -> tuple[str, ...]:
    if (found := find_elsewhere()) is not None:
        return (found,)
    from .installed import default

    if (installed := default()) is not None:
        return installed.command
    raise BinaryError(
        "memcached was not found on PATH or in the usual folders",
        f"{how_to_install()}; or name one in MEMCACHED_SANDBOX_BINARY",
    )


def _on_path_or_installed(name: str, spelled: str, named: str) -> tuple[str, ...]:
    if found := find_tool(name):
        return (found,)
    if name == NAME:  # as without a name
        return _first_found()
    from .installed import find, is_suite

    if (installed := find(name)) is not None:
        return installed.command
    if package_manager() == "apt-get" and is_suite(name):
        raise BinaryError(
            f"{spelled}: no {name} on PATH and no such suite".removeprefix(": "),
            f"run sandbox install --suite {name}",
        )
    raise BinaryError(f"{named} is neither on PATH nor an installed suite", "give its full path")


def find_tool(name: str) -> str | None:
    """Returns the path of a program on PATH; None if there is none."""
    return _first_executable(name, os.get_exec_path())


def _first_executable(name: str, folders: list[str]) -> str | None:
    paths = (os.path.abspath(os.path.join(folder, name)) for folder in folders)
    return next(filter(_is_executable, paths), None)


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
