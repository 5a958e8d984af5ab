"""`sandbox exec`: what a user sees who wraps a command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.processes import eventually, pid_in, wait_until_gone, without_coverage

SUMMARY = re.compile(
    r"sandbox: 2 gets \(50\.0 % hits\), 1 sets, 0 evictions, peak memory [\d.]+ of 64 MB\n"
)

USE_CACHE = """
import os
from pymemcache import Client
client = Client(os.environ["MEMCACHED_SANDBOX_ADDRESS"])
client.set("key", "value")
client.get("key"), client.get("nothing")
print(client.stats()[b"pid"])
"""


def test_the_command_has_a_memcached_of_its_own_which_ends_with_it(run: Run) -> None:
    result = run("sandbox", "exec", "--", sys.executable, "-c", USE_CACHE)
    assert result.returncode == 0
    assert SUMMARY.fullmatch(result.stderr)
    assert not psutil.pid_exists(int(result.stdout))


def test_environment(run: Run) -> None:
    script = "echo $MEMCACHED_SANDBOX_ADDRESS $MEMCACHED_SANDBOX_PID $CACHE_URL $SET"
    result = run(
        "sandbox", "exec",
        "--env", "CACHE_URL=pymemcache://{address}/?h={host}&p={port}",
        "--env", 'SET={"a b": {}}',
        "sh", "-c", script,
    )  # fmt: skip
    address, pid, url, rest = result.stdout.rstrip().split(" ", 3)
    host, port = address.split(":")
    assert url == f"pymemcache://{host}:{port}/?h={host}&p={port}"
    assert rest == '{"a b": {}}'
    assert pid.isdigit()


def test_python_dash_m(run: Run) -> None:
    result = run(sys.executable, "-m", "sandbox", "exec", "-q", "--", "echo", "hello")
    assert (result.stdout, result.stderr, result.returncode) == ("hello\n", "", 0)


def test_options_of_the_command_are_its_own(run: Run) -> None:
    result = run("sandbox", "exec", "-q", "echo", "-m", "1", "--help", "--", "-v")
    assert result.stdout == "-m 1 --help -- -v\n"


def test_options_reach_memcached(run: Run) -> None:
    script = (
        "import os; from pymemcache import Client;"
        "settings = Client(os.environ['MEMCACHED_SANDBOX_ADDRESS']).stats('settings');"
        "names = (b'maxbytes', b'item_size_max', b'num_threads', b'maxconns');"
        "print(*(int(settings[n]) for n in names))"
    )
    words = [sys.executable, "-c", script]
    for options in (
        ["-m8M", "-I", "2M", "-t", "2", "--max-connections", "77", "--start-timeout", "60"],
        ["--memory=8", "--max-item-size=2048k", "-t2", "--max-connections=77"],
    ):
        assert run("sandbox", "exec", *options, *words).stdout == f"{8 << 20} {2 << 20} 2 77\n"
    by_environment = run(
        "sandbox", "exec", *words,
        MEMCACHED_SANDBOX_MEMORY="8",
        MEMCACHED_SANDBOX_MAX_ITEM_SIZE="2m",
        MEMCACHED_SANDBOX_THREADS="2",
        MEMCACHED_SANDBOX_MAX_CONNECTIONS="77",
        MEMCACHED_SANDBOX_QUIET="1",
        MEMCACHED_SANDBOX_ENV="X={port}",
    )  # fmt: skip
    assert (by_environment.stdout, by_environment.stderr) == (f"{8 << 20} {2 << 20} 2 77\n", "")


def test_unix_socket_and_verbose(run: Run, run_folder: Path) -> None:
    result = run("sandbox", "exec", "-v", "--unix", "--memcached-arg=-v", "--", "env")
    address = re.search(r"MEMCACHED_SANDBOX_ADDRESS=(unix:.*)", result.stdout)[1]
    assert address.startswith(f"unix:{run_folder}/")
    first, _ = result.stderr.splitlines()
    assert re.fullmatch(
        rf"sandbox: memcached at {address}, pid \d+: /\S+/memcached -m64 .* -v .*", first
    )


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("MEMORY=lots", "MEMCACHED_SANDBOX_MEMORY=lots: must be a whole number of MB"),
        ("MEMCACHED_ARG=-m5 -C", "MEMCACHED_SANDBOX_MEMCACHED_ARG=-m5 -C: -m cannot be passed to"),
        ("UNIX=maybe", "Invalid value for MEMCACHED_SANDBOX_UNIX: 'maybe' is not a valid boolean"),
        ("FLUSH=x", "Invalid value for MEMCACHED_SANDBOX_FLUSH: 'x' is not one of"),
        ("GUARD=x:y", "Invalid value for MEMCACHED_SANDBOX_GUARD: 'x:y' is not HOST:PORT"),
        ("SERVERS=0", "Invalid value for MEMCACHED_SANDBOX_SERVERS: 0 is not in the range"),
    ],
)
def test_variable_that_is_wrong_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"MEMCACHED_SANDBOX_{name}", value)
    result = cli("exec", "true")
    assert result.returncode == 2
    assert result.stderr.startswith(f"sandbox: {said}")
    assert result.stderr.endswith(" See 'sandbox exec --help'.\n")


def test_guard_on_the_command_line_comes_before_no_guard_in_the_environment(run: Run) -> None:
    words = ["sh", "-c", "echo $MEMCACHED_SANDBOX_GUARDED"]
    off, on = {"MEMCACHED_SANDBOX_NO_GUARD": "1"}, {"MEMCACHED_SANDBOX_NO_GUARD": "0"}
    assert run("sandbox", "exec", "-q", *words, **on).stdout == "127.0.0.1:11211\n"
    assert run("sandbox", "exec", "-q", *words, **off).stdout == "\n"
    result = run("sandbox", "exec", "-q", "--guard", "nowhere:5", *words, **off)
    assert result.stdout == "127.0.0.1:11211 nowhere:5\n"


def test_guard_and_no_guard(cli: Cli) -> None:
    result = cli("exec", "--guard", "nowhere:5", "--no-guard", "true")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("sandbox: Give either --guard or --no-guard.")


def test_another_memcached(run: Run, tmp_path: Path) -> None:
    binary = tmp_path / "mine"
    binary.write_text('#!/bin/sh\necho started >started\nexec memcached "$@"\n')
    binary.chmod(0o755)
    assert run("sandbox", "exec", "--memcached", binary, "true").returncode == 0
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit 125"], 125),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["sh", "-c", "kill -INT $$"], 128 + 2),
        (["sh", "-c", "kill -KILL $$"], 128 + 9),
        (["sh", "-c", "kill -SEGV $$"], 128 + 11),
    ],
)
def test_exit_status_is_that_of_the_command(run: Run, command: list[str], status: int) -> None:
    assert run("sandbox", "exec", "-q", "--", *command).returncode == status


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing argument 'COMMAND...'. See 'sandbox exec --help'."),
        (["--memry", "5", "true"], 2, "No such option '--memry'. Did you mean '--memory'?"),
        (
            ["-m", "much", "true"],
            2,
            "--memory much: must be a whole number of MB, or a size such as 512m or 1g. See",
        ),
        (["-m", "1", "true"], 2, "--memory 1: memcached needs at least 2 MB"),
        (["-m", "-5", "true"], 2, "--memory -5: must be 1 or more. See"),
        (
            ["-I", "5q", "true"],
            2,
            "--max-item-size 5q: must be a size: bytes, or such as 512k or 2m. See",
        ),
        (["-I", "100k", "true"], 2, "--max-item-size 100k: memcached takes multiples of 512 KB"),
        (["-t", "0", "true"], 2, "--threads 0: must be 1 or more"),
        (["--memcached-arg", "-d", "true"], 2, "--memcached-arg -d: -d cannot be"),
        (["--env", "novalue", "true"], 2, "'novalue' is not NAME=TEMPLATE."),
        (
            ["--env", "A={addres}", "true"],
            2,
            "{addres} in 'A={addres}' is none of {address}, {host}",
        ),
        (
            ["--unix", "--env", "A={port}", "true"],
            2,
            "{port} in 'A={port}' is none of {address} on a Unix socket",
        ),
        (["--memcached", "/no/memcached", "true"], 125, "'/no/memcached' does not exist"),
        (["--memcached", "true", "echo", "ran"], 125, "/true ended with exit code 0 before it was"),
        (["--memcached-arg=-o", "--memcached-arg=x", "echo"], 125, "saying: Illegal suboption"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    cli: Cli, arguments: list[str], status: int, message: str
) -> None:
    assert_one_line(cli("exec", *arguments), status, message)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["no-such-command"], 127, "no-such-command: command not found"),
        (["./missing/command"], 127, "./missing/command: command not found"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["/etc"], 126, "/etc: Permission denied"),
        (["--memory", "0", "true"], 2, "--memory 0: must be 1 or more"),
        (["--memcached", "true", "echo", "ran"], 125, "/true ended with exit code 0 before it was"),
    ],
)
def test_exit_status_of_what_cannot_be_done(
    run: Run, arguments: list[str], status: int, message: str
) -> None:
    assert_one_line(run("sandbox", "exec", *arguments), status, message)


def assert_one_line(result: subprocess.CompletedProcess[str], status: int, message: str) -> None:
    assert message in result.stderr
    assert result.stderr.startswith("sandbox: ")
    assert result.stderr.count("\n") == 1
    assert (result.returncode, result.stdout) == (status, "")


def test_unknown_command(cli: Cli) -> None:
    assert_one_line(cli("exce"), 2, "No such command 'exce'")


def test_help_and_version(cli: Cli) -> None:
    for arguments in (["--help"], ["exec", "--help"], ["exec", "-h"]):
        result = cli(*arguments)
        assert result.returncode == 0
        assert "sandbox exec -- ./manage.py test" in result.stdout
    assert re.fullmatch(r"memcached-sandbox \d+\.\d+\.\d+\n", cli("--version").stdout)


def test_shell_completion(run: Run) -> None:
    result = run("sandbox", _SANDBOX_COMPLETE="bash_source")
    assert "complete -o nosort -F _sandbox_completion sandbox" in result.stdout


def test_standard_streams_are_those_of_the_command(run: Run, tmp_path: Path) -> None:
    result = subprocess.run(
        ["sandbox", "exec", "-q", "--", "sh", "-c", "cat; echo error >&2"],
        input="through and through",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("through and through", "error\n")


def test_a_reader_that_goes_away_ends_the_command_as_ever(run: Run) -> None:
    result = run("sh", "-c", "sandbox exec -q -- yes | head -n 1; sandbox exec true 2>&- | cat")
    assert (result.stdout, result.stderr) == ("y\n", "")


def test_memcached_that_dies_is_reported_at_once_and_at_the_end() -> None:
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
        first = process.stderr.readline()  # while the command still runs
        _, rest = process.communicate("\n")
    how = r"was killed by signal 9 \(Killed\)\.\n"
    server = r"sandbox: memcached at 127\.0\.0\.1:\d+"
    assert re.fullmatch(f"{server} {how}", first)
    assert re.fullmatch(f"{server} did not live to the end of the run: it {how}", rest)
    assert process.returncode == 3


def test_status_is_that_of_the_command_even_if_memcached_hangs(run: Run) -> None:
    result = run("sandbox", "exec", "--", "sh", "-c", "kill -STOP $MEMCACHED_SANDBOX_PID; exit 3")
    assert result.returncode == 3
    assert re.fullmatch(r"sandbox: memcached at \S+ does not answer: timed out\.\n", result.stderr)


# Tells each signal that it gets, until its standard input ends.
RECORDER = """
import os, signal, sys
def say(word): os.write(1, word.encode() + b"\\n")  # print() could be interrupted within itself
def record(number, frame): say(signal.Signals(number).name)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), record)
say("ready")
sys.stdin.read()
"""


def test_a_signal_sent_to_exec_reaches_the_command_once() -> None:
    names = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"]
    names += ["SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT"]
    with subprocess.Popen(
        ["sandbox", "exec", "-q", "--", sys.executable, "-c", RECORDER, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=without_coverage(),
    ) as process:
        assert process.stdout.readline() == "ready\n"
        for name in names:
            process.send_signal(getattr(signal, name))
            assert process.stdout.readline() == f"{name}\n"
        assert process.communicate("")[0] == ""
    assert process.returncode == 0


def test_signals_are_handled_by_the_command_as_they_were_by_our_parent(run: Run) -> None:
    """What nohup and the like have ignored stays so, and nothing else is ignored or blocked."""
    script = "trap '' HUP; exec {} grep -E 'Sig(Blk|Ign)' /proc/self/status"

    def signals(wrapper: str) -> list[int]:
        printed = run("sh", "-c", script.format(wrapper)).stdout
        # posix_spawn() of glibc leaves its own two signals, 32 and 33, ignored.
        return [int(mask, 16) & ~(0b11 << 31) for mask in re.findall(r"\t(\w+)", printed)]

    blocked, ignored = signals("")
    assert ignored & 1 << (signal.SIGHUP - 1)
    assert signals("sandbox exec -q --") == [blocked, ignored]


def test_a_parent_that_ignores_its_children(run: Run) -> None:
    result = run("sh", "-c", "trap '' CHLD; exec sandbox exec -q -- sh -c 'exit 3'")
    assert result.returncode == 3


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_exec_itself_ended_while_memcached_starts(name: str, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho $$ >pid; exec sleep 100\n")
    slow.chmod(0o755)
    with subprocess.Popen(
        ["sandbox", "exec", "--memcached", slow, "true"], cwd=tmp_path, stderr=subprocess.PIPE
    ) as process:
        pid = pid_in(tmp_path / "pid")
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.communicate()[1] == b""
    wait_until_gone(pid)
    eventually(lambda: list(Path(os.environ["TMPDIR"]).iterdir()) == [])


def test_exec_killed_takes_memcached_with_it(run_folder: Path) -> None:
    with subprocess.Popen(
        ["sandbox", "exec", "sh", "-c", "echo $MEMCACHED_SANDBOX_PID $$; exec sleep 100"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        pid, command = map(int, process.stdout.readline().split())
        process.kill()
        process.wait()
        wait_until_gone(pid)
        eventually(lambda: list(run_folder.iterdir()) == [])
        os.kill(command, signal.SIGKILL)


def test_nothing_is_imported_that_is_not_used(run: Run) -> None:
    """It is on a hot path: psutil alone would take half as long as all the rest."""
    result = run(sys.executable, "-X", "importtime", "-m", "sandbox", "exec", "-q", "--", "true")
    assert result.returncode == 0
    assert "click" in result.stderr
    for costly in (
        "psutil",
        "pymemcache",
        "django",
        "sandbox.cli.start",
        "sandbox.registry.inventory",
    ):
        assert costly not in result.stderr


def test_it_listens_on_loopback_only(run: Run) -> None:
    result = run("sandbox", "exec", "--memcached-arg=-l0.0.0.0", "--", "true")
    assert result.returncode == 2
    assert "-l cannot be passed to memcached: a sandbox listens on this machine's" in result.stderr


def test_a_parallel_worker_that_is_killed(run: Run, tmp_path: Path, run_folder: Path) -> None:
    """Its servers are the run's, and end with that."""
    (tmp_path / "worker.py").write_text(
        "import os\n"
        "from _memcached_sandbox import run\n"
        "if os.fork() == 0:\n"
        "    run.current_run().become_worker('1')\n"
        "    os.kill(os.getpid(), 9)\n"
        "os.wait()\n"
    )
    result = run("sandbox", "exec", "--", sys.executable, "worker.py")
    assert result.returncode == 0
    assert "in the fullest of 2 servers" in result.stderr
    assert list(run_folder.iterdir()) == []
