"""The limits of a machine: each is told in a clear line, and nothing is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import REPOSITORY, Run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


@pytest.mark.parametrize("before", ["Memcached()", "Memcached().start()", "import warnings"])
def test_no_free_descriptor(python: Run, run_folder: Path, before: str) -> None:
    """From none to as many as a start takes: each number is either enough or said to be too few.

    Whatever has been imported before: the first thing that needs one may be an import.
    """
    result = python(
        "import os, resource\n"
        "from sandbox import Memcached, SandboxError\n"
        f"{before}\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "for free in range(12):\n"
        "    taken = [os.dup(0) for _ in range(20)]\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + free, hard))\n"
        "    try:\n"
        "        with Memcached(): outcome = 'enough'\n"
        "    except SandboxError as error: outcome = str(error)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))\n"
        "    for descriptor in taken: os.close(descriptor)\n"
        "    print(free, len(os.listdir('/proc/self/fd')), outcome)\n"
    )
    assert result.stderr == ""
    lines = [line.split(" ", 2) for line in result.stdout.splitlines()]
    assert len(lines) == 12
    assert len({descriptors for _, descriptors, _ in lines}) == 1
    outcomes = [outcome for *_, outcome in lines]
    assert outcomes[-1] == "enough"
    enough = outcomes.index("enough")
    assert set(outcomes[enough:]) == {"enough"}
    for outcome in outcomes[:enough]:
        assert "no free file descriptor: close files that it has open, or raise" in outcome
    assert list(run_folder.iterdir()) == []


UNTIL_ENOUGH = """
import resource, sys
if sys.version_info < (3, 10):
    sys.exit("too old")
from sandbox import Memcached, SandboxError
with Memcached():
    pass
for limit in range(1, 16):
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, 100))
    try:
        with Memcached():
            print("enough")
    except SandboxError as error:
        print(error)
"""


@as_root
def test_process_limit_reached(tmp_path: Path) -> None:
    """It does not hold for root, who has to become somebody else for this."""
    interpreter = "/usr/bin/python3"
    if not os.path.exists(interpreter):
        pytest.skip("there is no python3 that everybody may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        os.chown(folder, 54321, 54321)
        subprocess.run(["cp", "-r", REPOSITORY / "sandbox", folder / "sandbox"], check=True)
        result = subprocess.run(
            [interpreter, "-c", UNTIL_ENOUGH],
            cwd=folder,
            user=54321,
            group=54321,
            extra_groups=[],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert sorted(os.listdir(folder)) == ["sandbox"]
    if result.stderr == "too old\n":
        pytest.skip("its version is not supported")
    assert result.stderr == ""
    outcomes = result.stdout.splitlines()
    assert "no further process can be started: end some, or raise 'ulimit -u'" in outcomes[0]
    assert outcomes[-1] == "enough"
    for outcome in outcomes:
        # memcached's threads are counted as well: when it cannot have them, it ends and says so.
        assert (
            outcome == "enough"
            or "no further process can be started" in outcome
            or re.search("(ended with|killed by) .*Resource temporarily unavailable", outcome)
        )


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=9,mode=1777", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("no file system may be mounted here")
        yield Path(folder)
        subprocess.run(["umount", folder], check=True)


@as_root
def test_disk_full(python: Run, small_disk: Path) -> None:
    """With any number of files too few, and with no room for what is written into them."""
    result = python(
        "import os\n"
        "from sandbox import Memcached, SandboxError\n"
        "folder = os.environ['TMPDIR']\n"
        "def attempt(what):\n"
        "    try:\n"
        "        with Memcached() as server: server.flush(); outcome = 'enough'\n"
        "    except SandboxError as error: outcome = str(error)\n"
        "    print(what, [name for name in os.listdir(folder) if 'sandbox' in name], outcome)\n"
        "for number in range(8, -1, -1):\n"
        "    files = [open(f'{folder}/{n}', 'w') for n in range(number)]\n"
        "    attempt('files')\n"
        "    for file in files: file.close(); os.unlink(file.name)\n"
        "with open(f'{folder}/large', 'wb', buffering=0) as file:\n"
        "    try:\n"
        "        while file.write(bytes(4096)): pass\n"
        "    except OSError: pass\n"
        "attempt('bytes')\n",
        TMPDIR=str(small_disk),
    )
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) == 10
    assert lines[-2].endswith("enough")
    for line in lines[:3] + lines[-1:]:
        assert "[]" in line
        assert "the disk is full: free some space, or point TMPDIR to a folder on anoth" in line
    assert all("[]" in line for line in lines)


@as_root
def test_a_full_disk_does_not_keep_exec_from_being_told(run: Run, small_disk: Path) -> None:
    (small_disk / "large").write_bytes(bytes(16 * 1024))
    result = run("sandbox", "exec", "true", TMPDIR=str(small_disk))
    assert result.returncode == 125
    assert result.stderr.startswith("sandbox: ")
    assert "the disk is full" in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(small_disk) == ["large"]


def test_address_space_too_small_for_memcached(run: Run, run_folder: Path) -> None:
    """What memcached itself runs into, it says itself, and so do we."""
    result = run(
        "sh", "-c", f"ulimit -v 200000; exec {sys.executable} -m sandbox exec -t 64 true",
        PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    assert result.returncode == 125
    how = r"memcached (ended with exit code|was killed by signal) .*|.* no memory left .*"
    assert re.fullmatch(rf"sandbox: \S*({how})\n", result.stderr)
    assert list(run_folder.iterdir()) == []
