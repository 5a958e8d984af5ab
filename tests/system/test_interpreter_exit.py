"""The interpreter of the owner exits: its server ends afterwards, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from sandbox import Memcached

from ..conftest import Run
from ..helpers.processes import eventually


def no_process_of(run_folder: Path) -> bool:
    """Return whether no reaper, and so no server, of this folder's run directory is left."""
    return not any(
        str(run_folder) in " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    )


SHUTDOWNS = {
    "in the middle of starts": "while True:\n        with Memcached(): pass",
    "while it is used": "while True: server.flush()",
    "while it is used through a client": "while True: client.set('key', 'value', noreply=False)",
}


@pytest.mark.parametrize("body", SHUTDOWNS.values(), ids=SHUTDOWNS.keys())
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "import atexit; atexit.register(sys.exit, 3)"])
def test_exit_before_a_daemon_thread_prints_no_traceback(
    python: Run, run_folder: Path, body: str, end: str
) -> None:
    """The server outlives the interpreter. A start that the thread began leaves no process."""
    result = python(
        "import sys, threading, time\n"
        "from sandbox import Memcached\n"
        "server = Memcached()\n"
        "server.start()\n"
        "client = server.client()\n"
        "running = threading.Event()\n"
        "def work():\n"
        "    running.set()\n"
        f"    {body}\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "running.wait()\n"
        "time.sleep(0.02)\n"
        f"{end}\n"
    )
    assert "sandbox" not in result.stderr
    assert result.returncode in (0, 3)
    eventually(lambda: no_process_of(run_folder))
    with Memcached():  # A start may have come as far as the directory, and no further.
        pass
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_exit_handlers_may_use_the_server(python: Run, run_folder: Path) -> None:
    """The reaper ends the server when the interpreter is gone."""
    result = python(
        "import atexit\n"
        "from sandbox import Memcached\n"
        "@atexit.register\n"
        "def use(): server.flush(); print('flushed')\n"
        "server = Memcached()\n"
        "server.start()\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "flushed\n", "")
    eventually(lambda: list(run_folder.iterdir()) == [])
