"""Finds the shell that evaluates the output, and writes variables in its syntax."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping

import psutil

from ..errors import SandboxError
from ..system.processes import shows_processes


def asking_process() -> psutil.Process | None:
    """Returns the process that reads the output of this one, or else the parent process.

    A subshell or a launcher such as uvx may stand in between: both write into the same pipe. Only
    Linux tells.

    :returns: None if the parent process has ended.
    :raises SandboxError: on Linux, /proc is not mounted.
    """
    if not shows_processes():
        raise SandboxError(
            "the sandbox ends with this shell, which cannot be seen without /proc: mount /proc, "
            "or use 'sandbox exec'"
        )
    output = os.fstat(sys.stdout.fileno())
    for process in psutil.Process().parents():
        if not stat.S_ISFIFO(output.st_mode) or not _writes_into(process.pid, output):
            return process
    return psutil.Process().parent()


def evaluated(command: str, shell: str) -> str:
    """Returns the line that makes a shell evaluate the output of a command."""
    if shell == "fish":
        return f"{command} --shell fish | source"
    return f'eval "$({command})"'


def is_variable_name(name: str) -> bool:
    """Returns whether a shell can have a variable of this name."""
    return re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is not None


def statements(variables: Mapping[str, str | None], shell: str) -> str:
    """Returns the lines that set and export variables, and unset those that are None.

    :raises SandboxError: a shell has no variable of such a name, and would execute it.
    """
    return "".join(_statement(name, value, shell) for name, value in variables.items())


def _statement(name: str, value: str | None, shell: str) -> str:
    if not is_variable_name(name):
        raise SandboxError(f"a shell has no variable {name!r}")
    if shell == "fish":
        return f"set -e {name}\n" if value is None else f"set -gx {name} {_fish(value)}\n"
    return f"unset {name}\n" if value is None else f"export {name}={_sh(value)}\n"


def _sh(value: str) -> str:
    # Always in quotes: zsh takes the rest of an unquoted "=ls" for a command, and expands it.
    escaped = value.replace("'", "'\\''")
    return f"'{escaped}'"


def _fish(value: str) -> str:
    # In single quotes only these two mean something: https://fishshell.com/docs/current/language.html
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _writes_into(pid: int, output: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/1"), output)
    except OSError:
        return False
