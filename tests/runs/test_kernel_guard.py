"""The kernel keeps all programs of a run from the main memcached, or leads them to the sandbox."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.system import seccomp

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.connecting import BASH_PATH, Programs
from ..helpers.django_runs import with_runner
from ..helpers.memcacheds import MainMemcached, PlainMemcached, starting_once
from ..helpers.processes import (
    eventually,
    found,
    pid_in,
    read_line,
    run_command,
    wait_until_gone,
)
from ..helpers.projects import PYMEMCACHE, MakeProject, Project, pytest_command
from ..helpers.users import as_root, stripped

pytestmark = pytest.mark.skipif(
    seccomp.reason_of_absence() is not None, reason="the kernel guards nothing here"
)

SINGS = "sings"
TOLD = "by the kernel guard, to process"


@pytest.fixture
def project(make_project: MakeProject, main_memcached: MainMemcached) -> Project:
    return make_project(main_memcached.address)


@pytest.fixture
def programs(tmp_path: Path, main_memcached: MainMemcached) -> Programs:
    return Programs(tmp_path, main_memcached.port)


def answers(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


def guarding(main: PlainMemcached, *options: str) -> list[str]:
    return ["sandbox", "exec", *options, "--guard", main.address, "--"]


def test_programs_reach_the_main_memcached_without_a_guard(programs: Programs, run: Run) -> None:
    printed = answers(run(programs.all()).stdout)
    assert {name for name, answer in printed.items() if SINGS in answer} == {*programs.commands}


def test_strict_refuses_each_program(
    programs: Programs, run: Run, main_memcached: MainMemcached
) -> None:
    result = run(*guarding(main_memcached, "--strict"), programs.all())
    printed = answers(result.stdout)
    assert {*printed} == {*programs.commands}
    assert not [name for name, answer in printed.items() if SINGS in answer or "VALUE" in answer]
    told = [line for line in result.stderr.splitlines() if TOLD in line]
    assert all(f":{main_memcached.port} was refused " in line for line in told)
    counts = re.findall(r"was refused (once|\d+)(?: times)? by the kernel guard", result.stderr)
    assert sum(1 if count == "once" else int(count) for count in counts) == programs.connections
    # Those of processes with the same command are told in one line.
    if "strace" in programs.commands:
        assert re.search(
            r"(?m)asks blocking\) and (1 more process|2 more processes)$", result.stderr
        )
    assert result.returncode == 125
    main_memcached.assert_untouched()


def test_redirect_leads_each_program(
    programs: Programs, run: Run, main_memcached: MainMemcached
) -> None:
    result = run(*guarding(main_memcached, "--redirect", "--strict"), programs.all())
    printed = answers(result.stdout)
    assert {*printed} == {*programs.commands}
    missing = {
        name: answer for name, answer in printed.items() if not re.search("END|None", answer)
    }
    assert missing == {}
    assert (
        f"sandbox: {programs.connections} connections to the main memcached were led to the "
        in (result.stderr)
    )
    assert "led to was not emptied between tests: no Python process" in result.stderr
    assert result.returncode == 0
    main_memcached.assert_untouched()


# Connects as its words say, in a Python that knows of no run, and prints the first word it is told.
ASKS = """
import socket, sys
kind, address = sys.argv[1:]
try:
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
    else:
        connection = socket.create_connection(("127.0.0.1", int(address)))
    connection.sendall(b"get canary\\r\\n")
    print(connection.recv(100).split()[0].decode())
except OSError as error:
    print(error.strerror)
"""


def asking(*where: object) -> list[str]:
    return [sys.executable, "-I", "-c", ASKS, *map(str, where)]


def test_main_memcached_of_caches_is_known_once_a_process_has_told_it(
    project: Project, main_memcached: MainMemcached
) -> None:
    first, *others = asking("tcp", main_memcached.port)
    project.write("told.sh", f'#!/bin/sh\n./manage.py check --tag caches\nexec {first} "$@"\n')
    result = project.sandboxed("--strict", "--", "./told.sh", *others)
    assert result.stdout.endswith("Connection refused\n"), result.stdout
    assert "no process told its CACHES" not in result.stderr
    assert result.returncode == 125
    result = project.sandboxed("--redirect", "--", "./told.sh", *others)
    assert result.stdout.endswith("END\n"), result.stdout
    assert "was not emptied between tests" not in result.stderr
    assert "servers" not in result.stderr  # It is led to the one that the alias has.
    main_memcached.assert_untouched()


@pytest.mark.parametrize("spelled", ["sock", "./link", "{folder}/link", "/proc/self/cwd/sock"])
def test_main_memcached_on_a_unix_socket_is_refused_and_never_led(
    run: Run, tmp_path: Path, spelled: str
) -> None:
    path = tmp_path / "sock"
    (tmp_path / "link").symlink_to("sock")
    with PlainMemcached("-s", str(path), "-a", "0777"):
        eventually(path.exists)
        command = asking("unix", spelled.format(folder=tmp_path))
        assert run(*command).stdout == "END\n"
        for option in ("--strict", "--redirect"):
            result = run("sandbox", "exec", option, "--guard", f"unix:{path}", "--", *command)
            assert result.stdout == "Connection refused\n"
            assert f"at unix:{spelled.format(folder=tmp_path)} was refused once" in result.stderr
        result = run("sandbox", "exec", "--strict", "--guard", f"unix:{path}x", "--", *command)
        assert result.stdout == "END\n"


@pytest.mark.parametrize("path", ["loop", "file/sock", "missing", "n" * 100])
def test_unix_socket_that_leads_nowhere_has_the_error_of_the_kernel(
    run: Run, tmp_path: Path, path: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    command = asking("unix", path)
    result = run("sandbox", "exec", "--strict", "--guard", f"unix:{tmp_path}/s", "--", *command)
    assert result.stdout == run(*command).stdout
    assert "kernel guard" not in result.stderr


def test_sandbox_servers_datagrams_and_other_ports_are_let_alone(
    run: Run, main_memcached: MainMemcached
) -> None:
    """getaddrinfo() connects datagram sockets to the addresses that it has found, to sort them."""
    code = (
        "import os, socket, sys\n"
        "port = int(sys.argv[1])\n"
        "print(len(socket.getaddrinfo('localhost', port)) > 0)\n"
        "socket.socket(type=socket.SOCK_DGRAM).connect(('127.0.0.1', port))\n"
        "host, own = os.environ['MEMCACHED_SANDBOX_ADDRESS'].split(':')\n"
        "socket.create_connection((host, own)).sendall(b'version\\r\\n')\n"
        "with socket.create_server((host, 0)) as server:\n"
        "    socket.create_connection(server.getsockname()).close()\n"
    )
    command = sys.executable, "-I", "-c", code, main_memcached.port
    for option in ("--strict", "--redirect"):
        result = run(*guarding(main_memcached, option), *command)
        assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr
        assert "kernel guard" not in result.stderr
        assert "led to" not in result.stderr


@as_root
def test_other_network_has_a_port_of_its_own(run: Run, main_memcached: MainMemcached) -> None:
    code = (
        "import fcntl, socket, struct, sys\n"
        "probe = socket.socket(type=socket.SOCK_DGRAM)\n"
        "up = struct.pack('16sh14x', b'lo', 1)\n"  # IFF_UP
        "fcntl.ioctl(probe, 0x8914, up)\n"  # SIOCSIFFLAGS
        "with socket.create_server(('127.0.0.1', int(sys.argv[1]))) as server:\n"
        "    socket.create_connection(server.getsockname()).close()\n"
        "print('connected')\n"
    )
    command = "unshare", "--net", sys.executable, "-I", "-c", code, main_memcached.port
    if run("unshare", "--net", "true").returncode:
        pytest.skip("no network may be made here")
    result = run(*guarding(main_memcached, "--redirect"), *command)
    assert result.stdout == "connected\n", result.stderr
    assert "led to" not in result.stderr


def may_look_at_others() -> bool:
    """Return whether this process has CAP_SYS_PTRACE."""
    status = Path("/proc/self/status").read_text()
    return bool(int(found(r"CapEff:\t(\w+)", status)[1], 16) >> 19 & 1)


@as_root
def test_process_of_another_user_is_guarded_or_told(
    programs: Programs, run: Run, main_memcached: MainMemcached
) -> None:
    command = programs.as_another_user()
    result = run(*guarding(main_memcached, "--redirect"), *command)
    if may_look_at_others():
        assert result.stdout == "END\n", result.stderr
        main_memcached.assert_untouched()
    else:
        assert SINGS in result.stdout
        assert result.stderr.count("the kernel guard could not look at process") == 1


UNDUMPABLE = """
import ctypes, socket, sys
PR_SET_DUMPABLE = 4
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
for _ in range(2):
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
        print("connected")
    except OSError as error:
        print(error.strerror)
"""


def test_process_that_hides_its_memory_is_guarded_or_told_once(
    run: Run, main_memcached: MainMemcached
) -> None:
    arguments = "-c", UNDUMPABLE, main_memcached.port
    result = run(*guarding(main_memcached, "--strict"), sys.executable, "-I", *arguments)
    if may_look_at_others():
        assert result.stdout == "Connection refused\n" * 2
    else:
        assert result.stdout == "connected\n" * 2
        assert result.stderr.count("could not look at process") == 1
    # A Python of the run is led, or else refuses by itself.
    result = run(*guarding(main_memcached, "--redirect"), sys.executable, *arguments)
    if may_look_at_others():
        assert result.stdout == "connected\n" * 2
        assert "2 connections to the main memcached were led" in result.stderr
    else:
        assert "the sandbox refuses the connection to the main memcached" in result.stdout


HARD_CODED = """
from django.core.cache import cache
from django.test import SimpleTestCase
from pymemcache import Client

class Tests(SimpleTestCase):
    def test(self):
        client = Client(("127.0.0.1", {port}))
        self.assertIsNone(client.get("canary"))
        client.set("canary", "croaks", noreply=False)

    test_again = test
"""


@pytest.mark.parametrize("way", ["manage.py", "pytest", "plugin", "runner"])
def test_what_was_led_fails_no_test_and_is_emptied_after_each(
    project: Project, main_memcached: MainMemcached, way: str
) -> None:
    project.write("tests.py", HARD_CODED.format(port=main_memcached.port))
    command = pytest_command("tests.py") if "p" in way[0] else ["./manage.py", "test"]
    if way == "plugin":
        command.append("--memcached-sandbox")
    if way == "runner":
        with_runner(project)
    result = project.sandboxed("--strict", "--redirect", "--", *command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 connections to the main memcached were led to the sandbox: " in result.stderr
    assert re.search(
        rf"{main_memcached.address} of \S+/tests.py:9 in process \d+ \(", result.stderr
    )
    assert "not emptied" not in result.stderr
    main_memcached.assert_untouched()


def test_connect_that_is_repeated_until_it_is_done_counts_once(
    run: Run, main_memcached: MainMemcached
) -> None:
    code = (
        "import socket, sys\n"
        "connection = socket.socket()\n"
        "for _ in range(3):\n"
        "    connection.connect_ex(('127.0.0.1', int(sys.argv[1])))\n"
    )
    command = sys.executable, "-I", "-c", code, main_memcached.port
    result = run(*guarding(main_memcached, "--redirect"), *command)
    assert "sandbox: a connection to the main memcached was led" in result.stderr


def test_server_of_an_address_beside_caches_is_emptied_after_each_test(
    project: Project, main_memcached: MainMemcached
) -> None:
    with PlainMemcached() as other:
        project.write("tests.py", HARD_CODED.format(port=other.port))
        options = ("--redirect", "--guard", other.address, "--")
        result = project.sandboxed(*options, "./manage.py", "test")
        assert result.returncode == 0, result.stderr
        assert "of 64 MB in the fullest of 2 servers" in result.stderr
        assert "not emptied" not in result.stderr


@as_root
@pytest.mark.parametrize("address", ["127.0.0.1", "127.7.7.7", "192.0.2.7"])
def test_main_host_is_known_by_its_name(
    make_project: MakeProject, main_memcached: MainMemcached, tmp_path: Path, address: str
) -> None:
    """Covers addresses of this machine, of which one is guarded itself, and one of another."""
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{address} main.example\n")
    project = make_project(f"main.example:{main_memcached.port}")
    project.write(
        "use.py",
        "import socket, subprocess, sys\n"
        "from django.core.cache import cache; cache.set('key', 'here')\n"
        f"socket.create_connection(('main.example', {main_memcached.port})).close()\n"
        "sys.exit(subprocess.call(['env', '-i', *sys.argv[1:]]))\n",
    )
    bash = (
        f"exec 3<>/dev/tcp/{address}/{main_memcached.port};"
        " printf 'get :1:key\\r\\nquit\\r\\n' >&3; IFS= read -r line <&3; echo ${line%%:*}"
    )
    command = sys.executable, "use.py", BASH_PATH, "-c", bash
    hosts = stripped(f"mount --bind {tmp_path}/hosts /etc/hosts")
    result = run_command(
        *(*hosts, *guarding(main_memcached, "--redirect"), *command),
        cwd=project.folder,
        DJANGO_SETTINGS_MODULE="settings",
    )
    assert (result.stdout, result.returncode) == ("VALUE\n", 0), result.stderr
    assert "2 connections to the main memcached were led to the sandbox at 2 pl" in result.stderr
    assert "use.py:3 in process" in result.stderr
    assert "servers" not in result.stderr  # All are led to the one that Django has.
    main_memcached.assert_untouched()


def test_host_that_does_not_resolve_is_left_to_the_guard_in_python(
    make_project: MakeProject,
) -> None:
    project = make_project("main.invalid:11299")
    code = (
        "import socket\n"
        "from django.conf import settings; settings.CACHES\n"
        "try:\n"
        "    socket.create_connection(('main.invalid', 11299))\n"
        "except ConnectionRefusedError as error:\n"
        "    print(type(error).__name__)\n"
    )
    project.write("use.py", code)
    result = project.sandboxed(
        "--redirect", "--", sys.executable, "use.py", DJANGO_SETTINGS_MODULE="settings"
    )
    assert result.stdout == "MainMemcachedRefused\n", result.stderr


# The address of the parent's server, captured before the fork, is passed to another program.
CAPTURED = """
import subprocess, sys
from django.conf import settings
from django.core.cache import cache
from django.test import SimpleTestCase
from pymemcache import Client

CAPTURED = settings.CACHES["default"]["LOCATION"]
ASK = r'''
import socket, sys
kind, _, where = sys.argv[1].rpartition(":")
if kind == "unix":
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(where)
else:
    datagram = socket.socket(type=socket.SOCK_DGRAM)
    datagram.connect((kind, int(where)))
    assert datagram.getpeername() == (kind, int(where))
    connection = socket.create_connection((kind, int(where)))
connection.sendall(b"get :1:name\\r\\n")
print(connection.recv(100))
'''

def make(name):
    def test(self):
        cache.set("name", name)
        command = [sys.executable, "-I", "-c", ASK, CAPTURED]
        self.assertIn(name, subprocess.check_output(command, text=True, env={}))
        self.assertEqual(Client(CAPTURED).get(":1:name"), name.encode())
    return type(name, (SimpleTestCase,), {"test": test})

for number in range(4):
    globals()[f"Tests{number}"] = make(f"Tests{number}")
"""


@pytest.mark.parametrize(
    ("options", "main"),
    [
        (["--redirect"], "127.0.0.1:11211"),
        (["--strict"], "127.0.0.1:11211"),
        (["--strict", "--unix"], "127.0.0.1:11211"),
        (["--strict", "--unix"], "unix:/nowhere/memcached.sock"),
    ],
)
def test_captured_server_of_the_parent_leads_to_the_workers_own(
    make_project: MakeProject, options: list[str], main: str
) -> None:
    """Covers a Python of the run, and one that knows of none. Datagram sockets are let alone."""
    project = make_project(main)
    project.write("tests.py", CAPTURED)
    result = project.sandboxed(*options, "--", "./manage.py", "test", "--parallel", "2")
    assert result.returncode == 0, result.stderr
    assert "8 connections to the server of another process were led to the worker's own" in (
        result.stderr
    )
    result = project.sandboxed(*options, "--", "./manage.py", "test")
    assert (result.returncode, "led to" in result.stderr) == (0, False), result.stderr


def test_addresses_that_a_controller_of_xdist_has_deferred_are_guarded(
    make_project: MakeProject, main_memcached: MainMemcached
) -> None:
    """It asks for no server of theirs."""
    with PlainMemcached() as other:
        mains = {"default": other.address, "further": main_memcached.address}
        caches = {alias: {"BACKEND": PYMEMCACHE, "LOCATION": main} for alias, main in mains.items()}
        project = make_project(caches)
        command = asking("tcp", main_memcached.port)
        project.write(
            "conftest.py",
            "import os, subprocess\n"
            "def pytest_sessionstart(session):\n"
            "    if 'PYTEST_XDIST_WORKER' not in os.environ:\n"
            "        import django; django.setup()\n"
            f"        subprocess.run({command!r}, stdout=open('answer', 'w'))\n",
        )
        project.write("test_it.py", "def test(): pass\n")
        pytest = pytest_command("-pxdist", "-n2", "-pno:django", "test_it.py")
        result = project.sandboxed("--strict", "--", *pytest, DJANGO_SETTINGS_MODULE="settings")
    assert (project.folder / "answer").read_text() == "Connection refused\n", result.stderr
    assert f"at {main_memcached.address} was refused once by the kernel guard" in result.stderr
    main_memcached.assert_untouched()


def test_connects_wait_for_the_lookup_of_a_host_at_their_port(
    python: Run, main_memcached: MainMemcached
) -> None:
    """The name of the host is that of this machine, as a slow DNS tells."""
    code = (
        "import _socket, time\n"
        "from sandbox.cli import main\n"
        "def getaddrinfo(*_):\n"
        "    time.sleep(0.2)\n"
        "    return [(0, 0, 0, '', ('127.0.0.1', 0))]\n"
        "_socket.getaddrinfo = getaddrinfo\n"
        "main()\n"
    )
    guard = f"main.example:{main_memcached.port}"
    command = asking("tcp", main_memcached.port)
    result = python(code, "exec", "--strict", "--guard", guard, "--", *command)
    assert result.stdout == "Connection refused\n", result.stderr
    main_memcached.assert_untouched()


def test_server_that_cannot_be_started_refuses_the_connection_and_fails_a_strict_run(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    options = ("--strict", "--redirect", "--memcached", starting_once(tmp_path))
    with PlainMemcached() as other:
        code = "\n".join(
            f"{shlex.join(asking('tcp', main.port))}" for main in (main_memcached, other)
        )
        outer = guarding(main_memcached, *options, "--guard", other.address)
        result = run(*outer, "sh", "-c", code)
    assert result.stdout == "END\nConnection refused\n", result.stderr
    assert "sandbox: the kernel guard failed, and refused a connection, first of process" in (
        result.stderr
    )
    assert "exit code 3" in result.stderr
    assert result.returncode == 125


def test_django_that_has_lost_its_environment_is_led(
    project: Project, main_memcached: MainMemcached
) -> None:
    project.write("tests.py", "from django.test import SimpleTestCase\n"
        "from django.core.cache import cache\n"
        "class Tests(SimpleTestCase):\n"
        "    def test(self):\n"
        "        cache.set('key', 1)\n"
        "        self.assertEqual(cache.get('key'), 1)\n")  # fmt: skip
    command = ("env", "-i", f"PATH={os.environ['PATH']}", "./manage.py", "test")
    result = project.sandboxed("--redirect", "--guard", main_memcached.address, "--", *command)
    assert result.returncode == 0, result.stderr
    assert "sandbox: 1 get (100.0 % hits), 1 set," in result.stderr
    assert "no process told its CACHES: only port 11211 and --guard were guarded" in result.stderr
    assert "was not emptied between tests: no Python process of the run could do it" in (
        result.stderr
    )
    main_memcached.assert_untouched()


def test_process_with_the_variables_of_a_run_and_no_filter_is_refused(
    project: Project, main_memcached: MainMemcached
) -> None:
    """It was started elsewhere: nobody would lead it, so its Python does not let it go on."""
    project.write("dump.py", "import json, os; print(json.dumps(dict(os.environ)))")
    with subprocess.Popen(
        [*guarding(main_memcached, "--redirect"), "sh", "-c",
         f"{sys.executable} dump.py; read line"],
        cwd=project.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as owner:  # fmt: skip
        env = json.loads(read_line(owner))
        code = f"import socket; socket.create_connection(('127.0.0.1', {main_memcached.port}))"
        result = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        assert "MainMemcachedRefused" in result.stderr
        _, told = owner.communicate("\n")
    assert "connecting to the main memcached was refused once" in told
    main_memcached.assert_untouched()


def test_sandbox_within_is_guarded_by_the_outer_one(
    run: Run, main_memcached: MainMemcached
) -> None:
    command = asking("tcp", main_memcached.port)
    outer = guarding(main_memcached, "--strict")
    result = run(*outer, "sandbox", "exec", "--strict", "--", *command)
    assert result.stdout == "Connection refused\n"
    assert "sandbox: only Python processes are guarded, as there is no kernel guard: another" in (
        result.stderr
    )
    assert f"at {main_memcached.address} was refused once by the kernel guard" in result.stderr
    result = run(*outer, "sandbox", "exec", "--redirect", "--", *command)
    assert (result.stdout, result.returncode) == ("", 125)
    assert "sandbox: --redirect needs the kernel guard: another program supervises" in result.stderr
    main_memcached.assert_untouched()


# Runs a command without the right to call seccomp(2), which a filter has taken away.
WITHOUT_SECCOMP = """
import ctypes, errno, os, struct, sys
from sandbox.system import seccomp
lines = [
    (seccomp.LOAD, 0, 0, seccomp.NUMBER),
    (seccomp.EQUAL, 0, 1, seccomp.this_machine().seccomp),
    (seccomp.RETURN, 0, 0, seccomp.RET_ERRNO | errno.EPERM),
    (seccomp.RETURN, 0, 0, seccomp.RET_ALLOW),
]
code = b"".join(struct.pack("HBBI", *line) for line in lines)
buffer = ctypes.create_string_buffer(code, len(code))
program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
libc.prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
assert libc.syscall(seccomp.this_machine().seccomp, seccomp.SET_MODE_FILTER, 0, program) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("option", ["--redirect", "--kernel-guard"])
def test_kernel_guard_that_cannot_be_had_fails_at_once(
    python: Run, tmp_path: Path, option: str
) -> None:
    result = python(WITHOUT_SECCOMP, "sandbox", "exec", option, "--", "touch", tmp_path / "begun")
    reason = f"{option} needs the kernel guard: seccomp(2) is not allowed here: Operation not permi"
    assert_one_line(result, 125, reason)
    assert not (tmp_path / "begun").exists()


def test_strict_goes_on_without_a_kernel_guard_and_says_so(
    python: Run, main_memcached: MainMemcached
) -> None:
    use = "printf 'set a 0 0 1\\r\\n1\\r\\nquit\\r\\n' >/dev/tcp/${0%:*}/${0#*:}"
    command = "bash", "-c", f'bash -c "{use}" $MEMCACHED_SANDBOX_ADDRESS; exit 3'
    for options, guarded in ((), "only Python processes are"), (("--no-inject",), "nothing is"):
        outer = guarding(main_memcached, "--strict", "-q", *options)
        result = python(WITHOUT_SECCOMP, *outer, *command)
        assert result.stderr.startswith(
            f"sandbox: {guarded} guarded, as there is no kernel guard: seccomp(2) is not allowed"
        )
        assert result.returncode == 3, result.stderr


@pytest.mark.parametrize(("option", "status"), [("--strict", 3), ("--redirect", 125)])
def test_machine_of_another_kind_has_no_kernel_guard(
    project: Project, python: Run, option: str, status: int
) -> None:
    """Nor does the control socket ask for what only Linux tells."""
    code = (
        "import _socket\n"
        "from sandbox.cli import main\n"
        "from sandbox.run import kernel_guard\n"
        "from sandbox.system import seccomp\n"
        "seccomp.MACHINES.clear()\n"
        "del _socket.SO_PEERCRED\n"
        "main()\n"
    )
    django = "from django.core.cache import cache; cache.get(1)"
    command = f"cd {project.folder}; ./manage.py shell -c '{django}'; exit 3"
    result = python(code, "exec", option, "--", "sh", "-c", command)
    assert result.returncode == status, result.stderr
    assert " kernel guard: it needs a 64-bit Python on x86-64 or arm64, not " in result.stderr


def test_doctor_says_which_guards_there_are(run: Run, python: Run) -> None:
    assert re.search("(?m)^guard +the kernel guards all programs", run("sandbox", "doctor").stdout)
    without = python(WITHOUT_SECCOMP, "sandbox", "doctor").stdout
    assert re.search(r"(?m)^guard +only Python .*: seccomp\(2\) is not allowed here", without)


@pytest.mark.parametrize(
    ("options", "env", "told"),
    [
        ("--redirect --no-guard", {}, "--redirect needs the guard: give either it or --no-guard"),
        ("--strict --guard off", {}, "--strict needs the guard: give either it or --guard off"),
        ("--kernel-guard --no-guard", {}, "--kernel-guard needs the guard: give either it or"),
        ("--redirect", {"NO_GUARD": "1"}, "give either it or MEMCACHED_SANDBOX_NO_GUARD=1"),
        ("--no-guard", {"REDIRECT": "1"}, "MEMCACHED_SANDBOX_REDIRECT=1 needs the guard: give"),
        ("--redirect --unix", {}, "--redirect leads to servers that listen on a port: give either"),
        ("--redirect --no-kernel-guard", {}, "needs the kernel guard: give either it or --no-kern"),
        ("--redirect", {"KERNEL_GUARD": "0"}, "it or MEMCACHED_SANDBOX_KERNEL_GUARD=0. See"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: str, env: dict[str, str], told: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(f"MEMCACHED_SANDBOX_{name}", value)
    assert_one_line(cli("exec", *options.split(), "--", "true"), 2, told)


def test_strict_without_a_kernel_guard_loads_nothing_of_it(run: Run) -> None:
    code = (
        "import sys\n"
        "from sandbox.cli import main\n"
        "sys.argv = ['sandbox', 'exec', '--strict', '--no-kernel-guard', '--', 'true']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    print({'ctypes', 'sandbox.system.seccomp'}.intersection(sys.modules))\n"
    )
    assert run(sys.executable, "-c", code).stdout == "set()\n"


def test_processes_that_survive_a_killed_exec_cannot_connect(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    code = (
        "import os, socket, sys\n"
        "print(os.getpid(), flush=True)\n"
        "open('go').read()\n"
        "error = socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))\n"
        "open('error', 'w').write(f'{error}\\n')\n"
    )
    os.mkfifo(tmp_path / "go")
    command = sys.executable, "-I", "-c", code, str(main_memcached.port)
    with subprocess.Popen(
        ["sandbox", "exec", "--kernel-guard", "--", *command],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    ) as owner:  # fmt: skip
        child = int(read_line(owner))
        owner.kill()
    (tmp_path / "go").write_text("go")
    assert pid_in(tmp_path / "error") == errno.ENOSYS
    wait_until_gone(child)


def test_daemon_keeps_its_network_after_exec(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    """And nobody waits for it: not for its output, nor for the end of its processes."""
    code = (
        "import os, socket, sys\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "os.setsid()\n"
        "for fd in range(3): os.close(fd)\n"
        "open('go').read()\n"
        "error = socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))\n"
        "open('error', 'w').write(f'{error}\\n')\n"
    )
    os.mkfifo(tmp_path / "go")
    command = sys.executable, "-I", "-c", code, main_memcached.port
    assert run("sandbox", "exec", "--kernel-guard", "--", *command).returncode == 0
    (tmp_path / "go").write_text("go")
    assert pid_in(tmp_path / "error") == 0
