"""`sandbox exec` when a server dies or hangs, or its worker is killed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ..conftest import Run


def test_dead_memcached_is_reported_at_once_and_at_the_end() -> None:
    with subprocess.Popen(
        [
            "sandbox",
            "exec",
            "-q",
            "--",
            "sh",
            "-c",
            "kill -9 $MEMCACHED_SANDBOX_PID; read _; exit 3",
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # while the command still runs
        _, rest = process.communicate("\n")
    how = r"was killed by signal 9 \(Killed\)\.\n"
    server = r"sandbox: memcached at 127\.0\.0\.1:\d+"
    assert re.fullmatch(f"{server} {how}", first)
    assert re.fullmatch(f"{server} did not live to the end of the run: it {how}", rest)
    assert process.returncode == 3


def test_hanging_memcached_keeps_the_exit_status(run: Run) -> None:
    result = run("sandbox", "exec", "--", "sh", "-c", "kill -STOP $MEMCACHED_SANDBOX_PID; exit 3")
    assert result.returncode == 3
    assert re.fullmatch(r"sandbox: memcached at \S+ does not answer: timed out\.\n", result.stderr)


def test_killed_worker_leaves_its_servers_to_the_run(
    run: Run, tmp_path: Path, run_folder: Path
) -> None:
    """The servers of a worker belong to the run, and end with it."""
    (tmp_path / "worker.py").write_text(
        "import os\n"
        "from _memcached_sandbox import run\n"
        "run.current_run().resolve(['a:1'])\n"
        "if os.fork() == 0:\n"
        "    run.current_run().become_worker('1')\n"
        "    os.kill(os.getpid(), 9)\n"
        "os.wait()\n"
    )
    result = run("sandbox", "exec", "--", sys.executable, "worker.py")
    assert result.returncode == 0
    assert "in the fullest of 2 servers" in result.stderr
    assert list(run_folder.iterdir()) == []


# A hundred workers at once, and then one of those that have servers asks again.
MANY_WORKERS = """
import os
from _memcached_sandbox import errors, run

def resolve(worker):
    try:
        return run.current_run().source.resolve(["a:1"], worker)
    except errors.RunError as error:
        return str(error)

resolve("first")
pids = []
for number in range(100):
    if not (pid := os.fork()):
        os._exit(type(resolve(str(number))) is dict)
    pids.append(pid)
print(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
print(type(resolve("first")).__name__)
"""


def test_workers_beyond_the_limit_of_descriptors_are_told_so(run: Run, tmp_path: Path) -> None:
    """Each gets its servers, or is told at once why it has none; the owner serves on."""
    (tmp_path / "workers.py").write_text(MANY_WORKERS)
    script = f"ulimit -Sn 60; exec sandbox exec -q -- {sys.executable} workers.py"
    result = run("sh", "-c", script)
    served, again = result.stdout.split()
    assert 0 < int(served) < 100
    assert again == "dict"
    told = result.stderr.splitlines()
    assert len(told) == 100 - int(served)
    assert "does not answer" not in result.stderr
    reason = "no free file descriptor: close files that it has open, or raise 'ulimit -n'"
    assert [line for line in told if not line.endswith(reason)] == []
