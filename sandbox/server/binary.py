"""Finds the memcached executable, or says how to install one."""

from __future__ import annotations

import os

from ..errors import BinaryError

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


def find_memcached(binary: str | os.PathLike[str] | None = None, spelled: str = "") -> str:
    """Returns the path of the memcached to run.

    :param binary: a path, or a name to look for on PATH. None for ``$MEMCACHED_SANDBOX_BINARY``
        or, without that, the first ``memcached`` on PATH and in the folders where packages put it.
    :param spelled: how the binary was typed, if not in Python.
    :raises BinaryError: it is not there, or is no executable file.
    """
    variable = os.environ.get("MEMCACHED_SANDBOX_BINARY")
    wanted = os.fspath(binary) if binary is not None else variable
    if not wanted:
        found = _first_executable("memcached", [*os.get_exec_path(), *USUAL_FOLDERS])
        if found is None:
            raise BinaryError(
                "memcached was not found on PATH or in the usual folders: "
                f"install it with '{install_command()}', or name it in MEMCACHED_SANDBOX_BINARY"
            )
        return found
    if binary is None:
        spelled = f"MEMCACHED_SANDBOX_BINARY={wanted}"
    named = f"{spelled}: the memcached binary {wanted!r}".removeprefix(": ")
    if os.sep not in wanted:
        found = _first_executable(wanted, os.get_exec_path())
        if found is None:
            raise BinaryError(f"{named} is not on PATH: give its full path")
        return found
    if not os.path.exists(wanted):
        raise BinaryError(
            f"{named} does not exist: correct the path, "
            f"or install memcached with '{install_command()}'"
        )
    if not _is_executable(wanted):
        raise BinaryError(
            f"{named} is not an executable file: correct the path, or allow it with 'chmod +x'"
        )
    return os.path.abspath(wanted)


def install_command() -> str:
    """Returns the command that installs memcached on this system."""
    for manager, command in INSTALL_COMMANDS.items():
        if _first_executable(manager, os.get_exec_path()):
            return f"sudo {command}" if manager != "brew" and os.geteuid() != 0 else command
    return "your system's package manager"


def _first_executable(name: str, folders: list[str]) -> str | None:
    paths = (os.path.abspath(os.path.join(folder, name)) for folder in folders)
    return next(filter(_is_executable, paths), None)


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
