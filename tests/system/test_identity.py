"""A process is killed only if it is the one in the record: by start and boot, not by its pid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.system.processes import Identity

from ..helpers.cli import Cli
from ..helpers.users import as_root

# pid_max is that of a PID namespace since Linux 6.14. Before, it is the whole machine's.
PID_MAX_OF_NAMESPACE = (6, 14)

REUSED_PID = """
import os, signal, subprocess, sys
from pathlib import Path
from sandbox import Memcached
from tests.helpers.owners import Owner
Path("/proc/sys/kernel/pid_max").write_text("400")

def child(number):
    # Start a process that sleeps if it has this pid, and wait for any other.
    pid = os.fork()
    if pid == 0:
        os.execvp("sleep", ["sleep", "100" if os.getpid() == number else "0"])
    if pid != number:
        os.waitpid(pid, 0)
    return pid

while child(0) < 300:  # lower pids are not given again: RESERVED_PIDS in the kernel's pid.c
    pass
with Owner() as owner:
    reaper = owner.reaper.pid
    for pid in (reaper, owner.process.pid, owner.server_pid):
        os.kill(pid, signal.SIGKILL)
ended = set()
while not ended >= {reaper, owner.server_pid}:
    ended.add(os.wait()[0])  # This is the first process of the namespace: orphans are its children.
while (pid := child(owner.server_pid)) != owner.server_pid:
    pass
assert owner.directory.exists()
with Memcached():
    assert not owner.directory.exists()
print(os.waitpid(pid, os.WNOHANG))
"""


def linux_version() -> tuple[int, ...]:
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])


@as_root
@pytest.mark.skipif(
    sys.platform != "linux" or linux_version() < PID_MAX_OF_NAMESPACE,
    reason="pid_max is the whole machine's",
)
def test_next_holder_of_a_pid_is_not_killed(run_folder: Path) -> None:
    """The pid of a stale server was given on within the second."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no PID namespace can be made here")
    result = subprocess.run(
        [*unshare, sys.executable, "-c", REUSED_PID],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "(0, 0)\n"), result.stderr


@pytest.mark.parametrize("correction", [-10, 10])
def test_corrected_clock_leaves_a_server_its_own(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, correction: float
) -> None:
    clock = time.time
    with Memcached() as server:
        monkeypatch.setattr("time.time", lambda: clock() + correction)
        (entry,) = json.loads(cli("list", "--json").stdout)
        assert 0 <= entry["age"] < 60
        assert entry["owner"]["command"] != []
        result = cli("stop", os.path.basename(server.directory))
        assert (result.returncode, result.stderr.count("stopped")) == (0, 1)


def test_identity_of_another_boot_or_namespace_is_not_killed(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as file, (tmp_path / "other").open("w") as other:
        held, not_held = os.fstat(file.fileno()), os.fstat(other.fileno())
        with subprocess.Popen(["sleep", "100"], stdout=file) as process:
            identity = Identity.of(process.pid)
            assert identity.is_running()
            elsewhere = identity._replace(system=f"{identity.system}1")
            assert not elsewhere.is_running()
            assert not elsewhere.kill(held)
            assert not identity._replace(started=f"1{identity.started}").kill(held)
            if sys.platform == "linux":
                assert not identity.kill(not_held)
            assert process.poll() is None
            assert identity.kill(held)
            process.wait()
            assert not identity.is_running()
