"""Puts a memcached of `sandbox install` where tests find it: an executable on PATH.

`PATH="$(python -m tests.helpers.installed_memcached sid):$PATH" python -m pytest` runs tests with
that of a suite of Debian or Ubuntu; without a name, that of the system's suite. It is kept in
build/: remove that for a newer one.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from sandbox import SandboxError
from sandbox.server import installer
from sandbox.server.installed import own_suite

from .processes import script

BUILD = Path(__file__).parents[2] / "build"


def folder_of_command(suite: str) -> Path:
    """Return the folder of an executable that is called ``memcached``, and runs that of a suite.

    :raises SandboxError: it cannot be had here.
    """
    os.environ["XDG_DATA_HOME"] = str(BUILD)
    found, _ = installer.install(suite, False, lambda line: print(line, file=sys.stderr))
    folder = BUILD / f"{suite}-memcached"
    folder.mkdir(exist_ok=True)
    script(folder / "memcached", f'#!/bin/sh\nexec {shlex.join(found.command)} "$@"\n')
    return folder


if __name__ == "__main__":
    suite = sys.argv[1] if len(sys.argv) > 1 else own_suite()
    try:
        print(folder_of_command(suite))
    except SandboxError as error:
        sys.exit(f"{error}")
