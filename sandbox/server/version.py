"""Asks a memcached that need not run for its version."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

# What stands for a version that a memcached does not tell.
UNKNOWN = "of an unknown version"


class Told(NamedTuple):
    """Tells a version; None if there is none, with what was printed instead, or why nothing was."""

    version: str | None
    complaint: str = ""


def ask_version(command: Sequence[str], seconds: float = 1) -> Told:
    """Runs ``memcached -V``, and ends it, with all that it has started, if it takes too long.

    :param command: the command that runs memcached.
    :param seconds: how long it may take.
    """
    try:
        process = subprocess.Popen(
            [*command, "-V"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Told(None, f"{error.strerror}")
    with process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Told(None, f"no answer within {seconds:g} seconds")
    version = output.strip().removeprefix("memcached ")
    if version:
        return Told(version)
    return Told(None, errors.strip() or f"exit code {process.returncode}")
