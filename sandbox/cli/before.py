"""Records the variables of a shell before ``sandbox start``, for ``sandbox stop`` to restore."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from ..errors import SandboxError
from ..run.environment import BEFORE, without_injection
from .shells import is_variable_name


def record(variables: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Returns a record of variables that will be set: the value before, if any, and the new one."""
    return json.dumps({name: [environ.get(name), value] for name, value in variables.items()})


def undone(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Returns the variables that undo ``sandbox start``, None for those to unset.

    A variable that was changed since then is kept; an injection that is still in it is removed.

    :returns: nothing if this is not the environment of a shell that has used ``sandbox start``.
    :raises SandboxError: the record in ``environ`` is not one that `record` has made.
    """
    text = environ.get(BEFORE)
    if not text:
        return {}
    variables: dict[str, str | None] = {BEFORE: None}
    changed = without_injection(environ)
    for name, (before, value) in _parse(text).items():
        if environ.get(name) == value:
            variables[name] = before
        elif name in changed:
            variables[name] = changed[name] or None
    return variables


def _parse(text: str) -> dict[str, tuple[str | None, str]]:
    variables = {}
    try:
        for name, entry in json.loads(text).items():
            match entry:
                case [str() | None as before, str() as value] if is_variable_name(name):
                    os.fsencode(f"{before}{value}")  # A character that has no bytes: ValueError.
                    if "\0" in f"{before}{value}":
                        raise ValueError(name)
                    variables[name] = before, value
                case _:
                    raise ValueError(name)
    except (ValueError, AttributeError, RecursionError):
        raise SandboxError(
            f"{BEFORE}={text[:80]!r} is not what 'sandbox start' has set, and the variables of "
            f"this shell cannot be restored: run 'unset {BEFORE}', or open another shell"
        ) from None
    return variables
