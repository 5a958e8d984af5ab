"""Whatever happens to the process that started a server, the server ends with it, and only then."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox import Memcached, StartError
from sandbox.system.reaper import VARIABLES

from ..conftest import Run
from ..helpers.processes import (
    eventually,
    is_running,
    pid_in,
    script,
    wait_until_gone,
    without_coverage,
)

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


@pytest.mark.parametrize("spawned", [0, 1, 2])
@pytest.mark.parametrize("binary", ["memcached", "silent"])
def test_owner_killed_in_the_middle_of_a_start(
    python: Run, run_folder: Path, tmp_path: Path, spawned: int, binary: str
) -> None:
    """Before the reaper was started, when it was, and when the server was."""
    script(tmp_path / "silent", "#!/bin/sh\nexec sleep 100\n")
    result = python(
        "import os, sys\n"
        "from sandbox import Memcached\n"
        "spawn, pids = os.posix_spawn, []\n"
        "def kill_after(count):\n"
        "    if len(pids) == count:\n"
        "        print(*pids, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        "def posix_spawn(*arguments, **options):\n"
        f"    kill_after({spawned})\n"
        "    pids.append(spawn(*arguments, **options))\n"
        f"    kill_after({spawned})\n"
        "    return pids[-1]\n"
        "os.posix_spawn = posix_spawn\n"
        "Memcached().start()\n",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        MEMCACHED_SANDBOX_BINARY=binary,
    )
    assert result.returncode == -signal.SIGKILL
    wait_until_gone(*map(int, result.stdout.split()))
    if spawned == 0:
        with Memcached():  # there was no reaper yet: the next start removes the directory
            pass
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_owner_killed_while_the_server_is_being_executed(run_folder: Path) -> None:
    """The kernel ends it then, or it is executed and in the reaper's process group already."""
    chance = random.Random(1)
    for _ in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then="")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # This is the random moment: a start takes some milliseconds after the imports.
        time.sleep(chance.uniform(0.02, 0.08))
        process.kill()
        process.communicate()
    with Memcached():
        pass
    eventually(lambda: list(run_folder.iterdir()) == [])


def reaper_of(server: Memcached) -> psutil.Process:
    (reaper,) = (child for child in psutil.Process().children() if child.pid != server.pid)
    return reaper


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_stop_when_the_reaper_was_stopped_or_killed(blow: signal.Signals) -> None:
    with Memcached() as server:
        reaper, pid = reaper_of(server), server.pid
        reaper.send_signal(blow)
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(reaper.pid)


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_stop_when_the_server_was_stopped_or_killed(blow: signal.Signals) -> None:
    with Memcached() as server:
        reaper, pid = reaper_of(server), server.pid
        os.kill(pid, blow)
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(reaper.pid)


needs_setsid = pytest.mark.skipif(shutil.which("setsid") is None, reason="there is no setsid here")


@needs_setsid
def test_server_that_leaves_the_process_group_is_refused(tmp_path: Path) -> None:
    """It could not be ended with its owner."""
    leaver = script(
        tmp_path / "leaver",
        f'#!/bin/sh\necho $$ >{tmp_path}/pid\nexec setsid memcached "$@"\n',
    )
    with pytest.raises(StartError, match="has left its process group, and could not be ended"):
        Memcached(binary=leaver).start()
    assert not psutil.pid_exists(pid_in(tmp_path / "pid"))


@needs_setsid
def test_program_that_closes_its_fifo_and_leaves_the_group_is_ended(tmp_path: Path) -> None:
    leaver = script(
        tmp_path / "leaver",
        f"#!/bin/sh\nexec 3>&-\necho $$ >{tmp_path}/pid\nexec setsid sleep 100\n",
    )
    server = Memcached(binary=leaver)
    server.launch()
    pid = pid_in(tmp_path / "pid")
    server.stop()
    assert not psutil.pid_exists(pid)


def test_exit_of_a_server_whose_child_lives_on_is_seen(tmp_path: Path) -> None:
    """The child has inherited the FIFO."""
    parent = script(tmp_path / "parent", '#!/bin/sh\nsleep 100 &\nexec memcached "$@"\n')
    with Memcached(binary=parent) as server:
        os.kill(server.pid, signal.SIGKILL)
        eventually(server.exit_reason)
        assert server.exit_reason() == "was killed by signal 9 (Killed)"
    failing = script(tmp_path / "failing", "#!/bin/sh\nsleep 100 &\necho words; exit 7\n")
    with pytest.raises(StartError, match="ended with exit code 7, saying: words before it was re"):
        Memcached(binary=failing, start_timeout=2).start()


@pytest.mark.parametrize("stopped", ["server", "reaper"])
def test_owner_killed_while_its_server_or_reaper_is_stopped(run_folder: Path, stopped: str) -> None:
    """The kernel sends SIGHUP to a group that has no parent in its session any more."""
    with Owner() as owner:
        pids = [owner.server_pid]
        pids += [c.pid for c in psutil.Process(owner.process.pid).children() if c.pid != pids[0]]
        process = psutil.Process(pids[stopped == "reaper"])
        process.suspend()
        eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        owner.process.kill()
        owner.process.wait()
        wait_until_gone(*pids)
        owner.assert_nothing_left(run_folder)


def test_stop_of_a_dead_reaper_does_not_send_sigpipe(python: Run) -> None:
    result = python(
        "import os, signal, psutil\n"
        "from sandbox import Memcached\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "with Memcached() as server:\n"
        "    for child in psutil.Process().children():\n"
        "        if child.pid != server.pid: child.kill(); child.wait()\n"
        "print(psutil.Process().children())\n"
    )
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_fork_while_another_thread_starts_a_server_holds_nothing(python: Run) -> None:
    """It waits until the descriptors are stored, and closes them then."""
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
        "thread = threading.Thread(target=server.start)\n"
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


def test_environment_of_server_and_reaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell takes code from some variables: functions, ENV, BASH_ENV."""
    monkeypatch.setenv("BASH_FUNC_rm%%", "() { :; }")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("SECRET", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    says_env = script(tmp_path / "env", f'#!/bin/sh\nenv >{tmp_path}/said\nexec memcached "$@"\n')
    with Memcached(binary=says_env) as server:
        of_reaper = set(reaper_of(server).environ())
    of_server = {line.partition("=")[0] for line in (tmp_path / "said").read_text().splitlines()}
    known = {*VARIABLES, "MEMCACHED_PORT_FILENAME"}
    of_shells = {"PWD", "OLDPWD", "SHLVL", "_"}  # which they set themselves
    assert {"PATH", "LANG", "TMPDIR"} <= of_reaper <= known
    assert {"PATH", "LANG", "TMPDIR", "MEMCACHED_PORT_FILENAME"} <= of_server <= known | of_shells


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists descriptors in /proc")
def test_server_inherits_neither_lock_nor_socket_of_the_reaper(tmp_path: Path) -> None:
    says_files = script(
        tmp_path / "files",
        f'#!/bin/sh\nls -l /proc/$$/fd >{tmp_path}/said\nexec memcached "$@"\n',
    )
    with Memcached(binary=says_files) as server:
        directory = server.directory
        of_reaper = {file.path for file in reaper_of(server).open_files()}
        assert of_reaper == set()
    targets = re.findall("-> (.*)", (tmp_path / "said").read_text())
    assert f"{directory}/fifo" in targets
    assert f"{directory}/server" in targets
    assert directory not in targets
    assert not [target for target in targets if target.startswith("socket:")]


def test_port_is_kept_while_the_server_is_down() -> None:
    """Nobody is given it meanwhile, and nobody can connect to it."""
    if sys.platform != "linux":
        pytest.skip("only Linux lets a second socket listen at a port that is bound")
    with Memcached() as server:
        assert server.host is not None
        assert server.port is not None
        peer = (server.host, server.port)
        os.kill(server.pid, signal.SIGKILL)
        eventually(server.exit_reason)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(peer)
        with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
            other.bind(peer)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(peer)


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


def test_multiprocessing_uses_and_does_not_end_it(python: Run) -> None:
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


def test_a_fork_may_start_its_own(python: Run) -> None:
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
    python: Run, run_folder: Path, way_in: str
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
    python: Run, run_folder: Path, body: str, end: str
) -> None:
    """It prints no traceback: its server ends after it. A start that it began leaves no process."""
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


def no_process_of(run_folder: Path) -> bool:
    """Return whether no reaper, and so no server, of this folder's run directory is left."""
    return not any(
        str(run_folder) in " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    )


def test_server_outlives_what_runs_at_the_exit_of_the_interpreter(
    python: Run, run_folder: Path
) -> None:
    """The reaper ends it when the interpreter is gone."""
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
