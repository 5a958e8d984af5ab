"""The kinds of harm, in a run directory that is empty before and has to be empty after."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from sandbox import Memcached
from sandbox.registry.directories import ServerDirectory

from ..helpers.processes import eventually, is_running, run_command, without_coverage

MB = 1024 * 1024

USE = """
from contextlib import closing
from sandbox import Memcached
print("ready", flush=True)
while True:
    with Memcached() as server, closing(server.client()) as client:
        client.set("key", "value")
        server.flush()
"""


def sigkills(count: int, seed: int, patience: float = 1) -> str:
    """Kill owners at random moments: while they start, use and stop servers.

    What they have started must have ended within ``patience`` seconds.
    """
    chance = random.Random(seed)
    slowest = 0.0
    for number in range(count):
        kind = ["loop", "group", "exec"][number % 3]
        slowest = max(slowest, _killed(kind, chance, patience))
    run_directory = _run_directory()
    left = len(list(run_directory.iterdir())) if run_directory.exists() else 0
    _assert_swept()
    return (
        f"{count} SIGKILLs: 0 processes after {patience} s, the last one gone after "
        f"{slowest * 1000:.0f} ms; {left} directories left, 0 after the next start"
    )


def _killed(kind: str, chance: random.Random, patience: float) -> float:
    """Kill one owner and return how long what it had started went on, in seconds."""
    program = [sys.executable, "-c", USE]
    command = [sys.executable, "-m", "sandbox", "exec", "-q", "--", *program]
    owner = subprocess.Popen(
        command if kind == "exec" else program,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert owner.stdout is not None
    if kind != "exec":
        owner.stdout.readline()
    time.sleep(chance.uniform(0, 0.6 if kind == "exec" else 0.04))  # this is the random moment
    # It stands still while its children are listed.
    owner.send_signal(signal.SIGSTOP)
    family = psutil.Process(owner.pid).children(recursive=True)
    if kind == "group":
        os.killpg(owner.pid, signal.SIGKILL)
    else:
        owner.kill()
    begin = time.monotonic()
    # The command of an exec may have been spawned and not executed yet when it was looked at.
    while alive := [
        child for child in family if is_running(child.pid) and _command(child) != program
    ]:
        waited = time.monotonic() - begin
        assert waited < patience, f"{kind}: {alive} {waited:.1f} s after the owner's end"
        time.sleep(0.001)
    ended = time.monotonic() - begin
    for process in family:
        # The command of an exec lives on: it is ended here.
        if _command(process) == program:
            process.kill()
    owner.communicate()
    return ended


INTERRUPTED = """
import gc, os, signal, sys
import psutil
from sandbox import Memcached

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

def resources():
    left = os.listdir(os.environ["TMPDIR"])
    return psutil.Process().num_fds(), len(psutil.Process().children()), left

def use(number):
    with Memcached(unix_socket=bool(number % 2)) as server:
        server.flush()

armed = False
signal.signal(signal.SIGINT, interrupt)
use(0), use(1)
before = resources()
number = 0
for _ in range(int(sys.argv[1])):
    caught = False
    while not caught:
        number += 1
        print("again", flush=True)
        try:
            armed = True
            use(number)
            armed = False
        except KeyboardInterrupt:
            armed = False
            caught = True
    gc.collect()
    assert resources() == before, (resources(), before)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # one may be on its way
print("done", flush=True)
"""


def interrupts(count: int, seed: int) -> str:
    """Send SIGINT at random moments to a process that starts, uses and stops servers."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, str(count)],
            stdout=subprocess.PIPE,
            text=True,
            env={**without_coverage(), "TMPDIR": folder},
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "again\n":
                    time.sleep(chance.uniform(0, 0.009))  # this is the random moment
                    process.send_signal(signal.SIGINT)
        assert (process.returncode, line) == (0, "done\n")
    return f"{count} times Ctrl-C: as many descriptors and children after each, and no file"


def starts_and_stops(count: int) -> str:
    """Start and stop servers in this process: it must not grow."""
    for number in range(50):
        _start_and_stop(number)
    process = psutil.Process()
    gc.collect()
    before = process.num_fds(), process.num_threads(), len(process.children())
    memory = process.memory_info().rss
    for number in range(count):
        _start_and_stop(number)
    assert (process.num_fds(), process.num_threads(), len(process.children())) == before
    gc.collect()
    grown = (process.memory_info().rss - memory) / MB
    assert grown < 1, f"{grown:.2f} MB more"
    return (
        f"{count} starts and stops: {before[0]} descriptors, {before[1]} threads and "
        f"{before[2]} children before and after, {grown:+.2f} MB"
    )


def _start_and_stop(number: int) -> None:
    with Memcached(unix_socket=bool(number % 2)) as server:
        server.flush()


def execs_at_once(count: int) -> str:
    """Have commands with a sandbox each run at the same time."""
    command = 'echo "$MEMCACHED_SANDBOX_ADDRESS"; read line'
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "sandbox", "exec", "-q", "--", "sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    addresses = set()
    for run in runs:
        assert run.stdout is not None
        addresses.add(run.stdout.readline().strip())
    failures = [error for run in runs if (error := run.communicate("\n")[1]) or run.returncode]
    assert not failures, failures
    assert len(addresses) == count
    assert all(address.startswith("127.0.0.1:") for address in addresses), addresses
    return f"{count} times sandbox exec at once: {len(addresses)} distinct ports, 0 failures"


def deaths_at_the_end(count: int) -> str:
    """Kill the server in the last moment of a command: its exit status is told all the same."""
    script = "kill -9 $MEMCACHED_SANDBOX_PID; exit 3"
    for _ in range(count):
        result = run_command(sys.executable, "-m", "sandbox", "exec", "--", "sh", "-c", script)
        assert result.returncode == 3, result
        assert "was killed by signal 9" in result.stderr, result
    return f"{count} servers killed as their command ended: its exit status, and the reason"


def sandboxes_alive(count: int) -> str:
    """Have sandboxes alive at the same time and see what each takes."""
    others = set(psutil.Process().children())
    servers = [Memcached() for _ in range(count)]
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
            server.flush()
        pids = {server.pid for server in servers}
        children = set(psutil.Process().children()) - others
        resident = sum(child.memory_info().rss for child in children) / MB
        of_servers = [_own_memory(c) for c in children if c.pid in pids]
        of_reapers = [_own_memory(c) for c in children if c.pid not in pids]
    finally:
        for server in servers:
            server.stop()
    assert len(of_servers) == len(of_reapers) == count
    largest = max(of_servers) + max(of_reapers)
    bound = 2 if sys.platform == "linux" else 10
    assert largest <= bound, f"{largest:.1f} MB"
    return (
        f"{count} sandboxes alive at once: at most {max(of_servers):.1f} MB each and "
        f"{max(of_reapers):.1f} MB for the reaper, without the code that all of them share; "
        f"{resident / count:.1f} MB resident with it"
    )


def _own_memory(process: psutil.Process) -> float:
    """Return how many MB a process has for itself.

    Its libraries are in memory once for all processes, and counted as resident for each of them:
    3.6 MB of memcached 1.6.18's 4.6, and 4.5 of 1.6.45's 5.7. Only Linux tells how much that is.
    """
    memory = process.memory_info()
    return (memory.rss - getattr(memory, "shared", 0)) / MB


def command_lines(count: int, seed: int) -> str:
    """Give random words to the command: no traceback, and a status that it has."""
    chance = random.Random(seed)
    for _ in range(count):
        words = chance.choices(WORDS, k=chance.randint(0, 6))
        result = run_command(sys.executable, "-m", "sandbox", *words)
        assert "Traceback" not in result.stderr, (words, result.stderr)
        assert result.returncode in (0, 1, 2, 125, 126, 127), (words, result)
    return f"{count} command lines of random words: no traceback"


WORDS = [
    *("exec", "start", "stop", "list", "doctor", "--", "-m", "-I", "-t", "--unix", "--memcached"),
    *("--memcached-arg", "--env", "--servers", "--exclude", "--flush", "--guard", "--no-guard"),
    *("--no-inject", "--strict", "-q", "-v", "--ttl", "--shell", "fish", "--json"),
    *("--stale", "-h", "0", "1", "64", "-5", "1e9", "512k", "2m", "A={address}", "{port}", "="),
    *("127.0.0.1:11211", "unix:", "true", "/no/such/file", "/bin/false", "/dev/null", "", "ü", "'"),
    *("-l0.0.0.0", "-d", "-rr", "$(id)", "9" * 30, "-U1", "test", "never", "8h"),
]


def assert_nothing_left() -> None:
    """No file, and so no process: but for those that command_lines has started on purpose."""
    if _run_directory().exists():
        servers = filter(ServerDirectory.is_named, os.listdir(_run_directory()))
        command = [sys.executable, "-m", "sandbox", "stop", *servers]
        subprocess.run(command, check=True, capture_output=True)
    eventually(lambda: not _run_directory().exists())


def _assert_swept() -> None:
    with Memcached() as server:
        server.flush()


def _run_directory() -> Path:
    from sandbox.registry.run_directory import run_directory

    return Path(run_directory())


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
