"""Forks and other children of the owner: they neither end its server nor keep it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.owners import Owner
from ..helpers.processes import is_running, read_line

FORK = """
child = os.fork()
if not child:
    {child}
    os._exit(0)
os.waitpid(child, 0)
server.flush()
print("alive", flush=True)
"""


@pytest.mark.parametrize(
    "child",
    [
        "pass",
        "sys.exit()",
        "server.flush(); server.stop()",
        "del server; import gc; gc.collect()",
        "server.__exit__(None, None, None)",
    ],
)
def test_end_of_a_fork_does_not_end_the_server(child: str, run_folder: Path) -> None:
    with Owner(FORK.format(child=child)) as owner:
        assert owner.read() == "alive\n"
        owner.assert_nothing_left(run_folder)


def test_fork_that_lives_on_does_not_keep_the_server(run_folder: Path) -> None:
    then = """
child = os.fork()
if not child:
    time.sleep(100)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""
    with Owner(then) as owner:
        child = int(read_line(owner.process))
        owner.process.kill()
        owner.process.wait()
        owner.assert_nothing_left(run_folder)
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


def test_program_that_lives_on_does_not_keep_the_server(run_folder: Path) -> None:
    then = """
import subprocess
print(subprocess.Popen(["sleep", "100"], close_fds=False).pid, flush=True)
"""
    with Owner(then) as owner:
        child = int(read_line(owner.process))
        owner.assert_nothing_left(run_folder)
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


def test_multiprocessing_uses_the_server_and_does_not_end_it(python: Run) -> None:
    result = python(
        "import multiprocessing as mp\n"
        "from sandbox import Memcached\n"
        "def use(address):\n"
        "    from pymemcache import Client\n"
        "    return Client(address).set('key', 'value', noreply=False)\n"
        "if __name__ == '__main__':\n"
        "    with Memcached() as server, mp.get_context('fork').Pool(2) as pool:\n"
        "        print(all(pool.map(use, [server.address] * 20)))\n"
        "        pool.close(); pool.join()\n"
        "        server.flush()\n"
    )
    assert (result.stdout, result.stderr) == ("True\n", "")


def test_fork_may_start_a_server_of_its_own(python: Run) -> None:
    result = python(
        "import os\n"
        "from sandbox import Memcached\n"
        "server = Memcached()\n"
        "server.start()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    server.stop()\n"
        "    server.start()\n"
        "    server.flush()\n"
        "    server.stop()\n"
        "    os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])\n"
        "server.flush()\n"
    )
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_fork_during_a_start_in_another_thread_holds_no_descriptor(python: Run) -> None:
    """The fork waits until the descriptors are stored, and then closes them.

    The thread only launches: the connection by which a start asks memcached may be open in a fork.
    """
    result = python(
        "import os, threading, time\n"
        "from sandbox import Memcached\n"
        "from sandbox.system import reaper\n"
        "before = set(os.listdir('/dev/fd'))\n"
        "begun, above = threading.Event(), reaper._above\n"
        "def slowly(*arguments):\n"
        "    begun.set()\n"
        "    time.sleep(0.05)\n"
        "    return above(*arguments)\n"
        "reaper._above = slowly\n"
        "server = Memcached()\n"
        "thread = threading.Thread(target=server.launch)\n"
        "thread.start()\n"
        "begun.wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    print(sorted(set(os.listdir('/dev/fd')) - before), flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "thread.join()\n"
        "server.stop()\n"
    )
    assert result.stdout == "[]\n", result.stderr  # Python 3.12 warns there of the fork itself.
