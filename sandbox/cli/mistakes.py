"""Guesses what was meant by a command line that cannot be executed."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from shutil import which

# Words of a shell's language, which no program understands.
OF_SHELL = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"}

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def proposal(command: Sequence[str], was_tried: bool) -> str:
    """Returns the end of an error: the `sandbox exec` that was probably meant; "" for no guess.

    :param was_tried: whether this command was executed, in vain.
    """
    words, reason = _meant(command), ""
    if was_tried and words == [*command]:  # It is there, but is no program.
        words = [_python(), *words] if words[0].endswith(".py") else None
    elif words is None and len(command) == 1 and (quoted := _split(command[0])):
        words, reason = _meant(quoted), ": it is a whole command line in quotes"
        if OF_SHELL.intersection(quoted) or (words and words[0] == "env"):
            words = ["sh", "-c", command[0]]
    return f"{reason}: did you mean: sandbox exec -- {shlex.join(words)}" if words else ""


def _meant(command: Sequence[str]) -> list[str] | None:
    """Returns a command that can be executed; None if there is none like this one.

    A file of the current folder needs ``./``, or an interpreter if it is not executable.
    """
    name, *arguments = command
    if ASSIGNMENT.match(name) and arguments and _meant(arguments):
        return ["env", *command]
    if os.path.isfile(name):
        path = name if os.sep in name else f"./{name}"
        if os.access(path, os.X_OK):
            return [path, *arguments]
        if name.endswith(".py"):
            return [_python(), name, *arguments]
        return None
    return [*command] if which(name) else None


def _python() -> str:
    return "python" if which("python") else "python3"


def _split(text: str) -> list[str]:
    """Returns the words of a command line; none if it is a single one, or a quote is not closed."""
    try:
        words = shlex.split(text)
    except ValueError:
        return []
    return words if len(words) > 1 else []
