"""What the guard has refused, and a file for processes to tell the one of the tests of it."""

from __future__ import annotations

import os
from collections import namedtuple

# An attempt to connect to a main memcached: its address, its alias or "", and from where, as
# "file:line".
Refusal = namedtuple("Refusal", ("address", "alias", "at"))


def append(path: str, refusal: Refusal) -> None:
    """Append one; several processes may do so at once."""
    import json

    line = json.dumps(refusal).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return  # The run has ended, and nobody is there to be told.
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def take(path: str) -> list[Refusal]:
    """Return what was appended since the last time."""
    import json

    taken = f"{path}.taken"
    try:
        os.rename(path, taken)
    except FileNotFoundError:
        return []
    with open(taken, encoding="utf-8") as lines:
        refusals = [Refusal(*json.loads(line)) for line in lines]
    os.unlink(taken)
    return refusals
