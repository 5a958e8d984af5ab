"""A file to which the processes of a run append what they were refused, for its owner to take."""

from __future__ import annotations

import json
import os

from .run import Refusal


def append(path: str, refusal: Refusal) -> None:
    """Append one; several processes may do so at once."""
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
    taken = f"{path}.taken"
    try:
        os.rename(path, taken)
    except FileNotFoundError:
        return []
    with open(taken, encoding="utf-8") as lines:
        refusals = [Refusal(*json.loads(line)) for line in lines]
    os.unlink(taken)
    return refusals
