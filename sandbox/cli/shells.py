"""Finds the shell that evaluates the output, and writes variables in its syntax."""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from collections.abc import Mapping

import psutil


def asking_process() -> psutil.Process | None:
    """Returns the process that reads the output of this one, or else the parent process.

    A subshell or a launcher such as uvx may stand in between: both write into the same pipe. Only
    Linux tells.

    :returns: None if the parent process has ended.
    """
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


def assignments(variables: Mapping[str, str], shell: str) -> str:
    """Returns the lines that set and export variables."""
    if shell == "fish":
        return "".join(f"set -gx {name} {_fish(value)}\n" for name, value in variables.items())
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def removals(variables: Mapping[str, str], shell: str) -> str:
    """Returns the lines that remove the variables whose value is empty, and set the others."""
    removed = [name for name, value in variables.items() if not value]
    kept = {name: value for name, value in variables.items() if value}
    remove = "set -e" if shell == "fish" else "unset"
    return "".join(f"{remove} {name}\n" for name in removed) + assignments(kept, shell)


def _writes_into(pid: int, output: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/1"), output)
    except OSError:
        return False


def _fish(value: str) -> str:
    # In single quotes only these two mean something: https://fishshell.com/docs/current/language.html
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
