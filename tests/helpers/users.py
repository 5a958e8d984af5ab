"""Other users of the machine: root gives them files, and runs scripts as them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

import pytest

from ..conftest import REPOSITORY
from .processes import Result

ANOTHER_USER = 54321  # an ID that no user of this machine has

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")

# Another user may be unable to read the virtual environment in which the tests run.
INTERPRETER = "/usr/bin/python3"

TOO_OLD = """
import sys
if sys.version_info < (3, 10):
    sys.exit("too old")
"""


def stripped(change: str, namespace: str = "--mount") -> tuple[str, ...]:
    """Return the command before one that shall see a changed machine: root may do that."""
    words = ("unshare", namespace, "sh", "-c", f'{change}; exec "$@"', "sh")
    if not shutil.which("unshare") or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    return words


def run_as(user: str | int, script: str) -> Result:
    """Run a Python script as another user, and check that it leaves no file.

    Its working directory is $TMPDIR, and the package lies there. The script may import what needs
    the standard library only.
    """
    if not os.path.exists(INTERPRETER):
        pytest.skip("there is no python3 that every user may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        subprocess.run(["cp", "-r", REPOSITORY / "sandbox", f"{folder}/sandbox"], check=True)
        result = subprocess.run(
            [INTERPRETER, "-c", TOO_OLD + script],
            cwd=folder,
            user=user,
            group=user if isinstance(user, int) else None,
            extra_groups=[],
            env={"PATH": os.environ["PATH"], "TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert os.listdir(folder) == ["sandbox"]
    if result.stderr == "too old\n":
        pytest.skip(f"the version of {INTERPRETER} is not supported")
    return result
