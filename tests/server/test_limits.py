"""The limits of the machine: each is reported in a clear line, and nothing is left."""

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
from ..helpers.users import as_root, run_as


@pytest.mark.parametrize("before", ["Memcached()", "Memcached().start()", "import warnings"])
def test_too_few_free_descriptors_are_reported(python: Run, run_folder: Path, before: str) -> None:
    """Each number of free descriptors is enough, or is reported as too few.

    The first to need a descriptor may be an import: the number of imports before differs.
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
        "    assert os.listdir(os.environ['TMPDIR']) == [], (free, outcome)\n"
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
import resource
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
def test_reached_process_limit_is_reported() -> None:
    """Root has no such limit, so another user starts the servers: one who runs nothing else."""
    result = run_as(20_000 + os.getpid() % 30_000, UNTIL_ENOUGH)
    assert result.stderr == ""
    outcomes = result.stdout.splitlines()
    assert "no further process can be started: end some, or raise 'ulimit -u'" in outcomes[0]
    assert outcomes[-1] == "enough"
    for outcome in outcomes:
        # memcached's threads are counted as well: without them memcached ends and says so.
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
def test_full_disk_is_reported(python: Run, small_disk: Path) -> None:
    """A disk is full when it has no room for another file, or for another byte."""
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
def test_exec_on_a_full_disk_fails_with_one_line(run: Run, small_disk: Path) -> None:
    (small_disk / "large").write_bytes(bytes(16 * 1024))
    result = run("sandbox", "exec", "true", TMPDIR=str(small_disk))
    assert result.returncode == 125
    assert result.stderr.startswith("sandbox: ")
    assert "the disk is full" in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(small_disk) == ["large"]


def test_exec_with_too_small_an_address_space_fails_with_one_line(
    run: Run, run_folder: Path
) -> None:
    """memcached itself prints what it lacks, and the error repeats it."""
    result = run(
        "sh", "-c", f"ulimit -v 200000; exec {sys.executable} -m sandbox exec -t 64 true",
        PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    assert result.returncode == 125
    how = r"memcached (ended with exit code|was killed by signal) .*|.* no memory left .*"
    assert re.fullmatch(rf"sandbox: \S*({how})\n", result.stderr)
    assert list(run_folder.iterdir()) == []
