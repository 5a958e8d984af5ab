"""Whatever happens to the process that started a server, the server ends with it, and only then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.processes import eventually, is_running, wait_until_gone, without_coverage

# Starts a server, says which, and waits for the end of its standard input.
OWNER = """
import json, os, sys, threading, time
from sandbox import Memcached
server = Memcached()
server.start()
print(json.dumps([server.pid, server.address]), flush=True)
{then}
"""


class Owner:
    """A process that owns a server, to be ended in one way or another."""

    def __init__(self, then: str = "sys.stdin.read()", **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then=then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        assert self.process.stdout is not None
        self.server_pid, self.address = json.loads(self.process.stdout.readline())

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def assert_nothing_left(self, run_folder: Path) -> None:
        wait_until_gone(self.server_pid)
        eventually(lambda: list(run_folder.iterdir()) == [])


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_owner_killed(blow: signal.Signals, run_folder: Path) -> None:
    with Owner(env=without_coverage()) as owner:
        owner.process.send_signal(blow)
        owner.process.wait()
        owner.assert_nothing_left(run_folder)


def test_whole_process_group_of_the_owner_killed(run_folder: Path) -> None:
    with Owner(start_new_session=True) as owner:
        os.killpg(owner.process.pid, signal.SIGKILL)
        owner.process.wait()
        owner.assert_nothing_left(run_folder)


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "os._exit(3)",
        "os.abort()",
        "raise RuntimeError",
        "os.execv('/bin/sleep', ['sleep', '100'])",
        "import atexit; atexit.register(sys.exit, 3)",
        "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
    ],
)
def test_owner_ends_by_itself(end: str, run_folder: Path) -> None:
    with Owner(end, stderr=subprocess.DEVNULL) as owner:
        owner.assert_nothing_left(run_folder)


@pytest.mark.parametrize("proc", ["/proc/", "/no/such/folder/"])
@pytest.mark.parametrize("unix_socket", ["", "yes"])
def test_owner_killed_between_start_of_the_server_and_word_to_the_reaper(
    python, run_folder: Path, unix_socket: str, proc: str
) -> None:
    """The reaper then has to find out whom to end, in /proc or from the server itself."""
    assert_ended_by_the_reaper(python, run_folder, unix_socket, proc)


def test_owner_killed_then_and_a_server_that_never_says_anything(
    python, run_folder: Path, tmp_path: Path
) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 100\n")
    silent.chmod(0o755)
    assert_ended_by_the_reaper(python, run_folder, "", MEMCACHED_SANDBOX_BINARY=str(silent))


def assert_ended_by_the_reaper(
    python, run_folder: Path, unix_socket: str, proc: str = "/proc/", **env: str
) -> None:
    result = python(
        "import os, sys\n"
        "from sandbox import Memcached\n"
        "from sandbox.system import reaper\n"
        "reaper.SCRIPT = reaper.SCRIPT.replace('/proc/', sys.argv[2])\n"
        "spawn, pids = os.posix_spawn, []\n"
        "def posix_spawn(*arguments, **options):\n"
        "    pids.append(spawn(*arguments, **options))\n"
        "    if len(pids) == 2:\n"
        "        print(*pids, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return pids[-1]\n"
        "os.posix_spawn = posix_spawn\n"
        "Memcached(unix_socket=bool(sys.argv[1])).start()\n",
        unix_socket,
        proc,
        **env,
    )
    assert result.returncode == -signal.SIGKILL
    wait_until_gone(*map(int, result.stdout.split()))
    eventually(lambda: list(run_folder.iterdir()) == [])


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
def test_end_of_a_fork_is_not_the_end(child: str, run_folder: Path) -> None:
    with Owner(FORK.format(child=child)) as owner:
        assert owner.process.stdout.read() == "alive\n"
        owner.assert_nothing_left(run_folder)


def test_a_fork_that_lives_on_does_not_keep_the_server(run_folder: Path) -> None:
    then = """
child = os.fork()
if not child:
    time.sleep(100)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""
    with Owner(then) as owner:
        child = int(owner.process.stdout.readline())
        owner.process.kill()
        owner.process.wait()
        owner.assert_nothing_left(run_folder)
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


def test_a_program_that_the_owner_leaves_behind_does_not_keep_the_server(run_folder: Path) -> None:
    then = """
import subprocess
print(subprocess.Popen(["sleep", "100"], close_fds=False).pid, flush=True)
"""
    with Owner(then) as owner:
        child = int(owner.process.stdout.readline())
        owner.assert_nothing_left(run_folder)
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


def test_multiprocessing_uses_and_does_not_end_it(python) -> None:
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


def test_a_fork_may_start_its_own(python) -> None:
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


SETTINGS = """
import os
from sandbox.django import sandboxed, sandboxed_caches
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "main:11211",
    },
}
"""
IN_SETTINGS = "sandboxed(CACHES, start=True)"
IN_CONFTEST = """
from django.conf import settings
settings.configure(CACHES=CACHES)
box = sandboxed_caches()
box.__enter__()
"""


@pytest.mark.parametrize("way_in", [IN_SETTINGS, IN_CONFTEST])
def test_killed_with_a_sandbox_in_settings_or_conftest(
    python, run_folder: Path, way_in: str
) -> None:
    killed = "print(len(os.listdir(os.environ['TMPDIR'])), flush=True)\nos.kill(os.getpid(), 9)"
    result = python(f"{SETTINGS}\n{way_in}\n{killed}")
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, "1\n"), result.stderr
    eventually(lambda: list(run_folder.iterdir()) == [])


SHUTDOWNS = {
    "in the middle of starts": "while True:\n        with Memcached(): pass",
    "while it is used": "while True: server.flush()",
    "while it is used through a client": "while True: client.set('key', 'value', noreply=False)",
}


@pytest.mark.parametrize("body", SHUTDOWNS.values(), ids=SHUTDOWNS.keys())
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "import atexit; atexit.register(sys.exit, 3)"])
def test_the_interpreter_ends_before_a_daemon_thread(
    python, run_folder: Path, body: str, end: str
) -> None:
    """No traceback of ours, which the loss of its server before its own end would be."""
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
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_the_interpreter_ends_in_order(python, run_folder: Path) -> None:
    """Without other threads nothing is left to the reaper: whoever looks next sees nothing."""
    result = python("from sandbox import Memcached\nserver = Memcached()\nserver.start()\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert list(run_folder.iterdir()) == []


def test_as_an_ordinary_user(tmp_path: Path) -> None:
    """Root is the special case here; the core needs the standard library only."""
    interpreter = "/usr/bin/python3"
    if os.geteuid() != 0 or not os.path.exists(interpreter):
        pytest.skip("the other tests are run by an ordinary user, or there is no python3 for one")
    folder = Path("/tmp") / f"as-nobody-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o1777)
    try:
        script = (
            "import os, sys\n"
            "assert os.geteuid() != 0\n"
            "if sys.version_info < (3, 10): sys.exit()\n"
            "from sandbox import Memcached\n"
            "for unix_socket in (False, True):\n"
            "    with Memcached(unix_socket=unix_socket) as server:\n"
            "        server.flush()\n"
            "        assert os.stat(f'/proc/{server.pid}').st_uid == os.geteuid()\n"
            "        assert server.directory.startswith(os.environ['TMPDIR'])\n"
        )
        package = folder / "sandbox"
        subprocess.run(["cp", "-r", Path(__file__).parents[2] / "sandbox", package], check=True)
        subprocess.run(
            [interpreter, "-c", script],
            cwd=folder,
            user="nobody",
            extra_groups=[],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
            check=True,
            timeout=60,
        )
        assert [entry.name for entry in folder.iterdir()] == ["sandbox"]
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
