"""Machines that lack what is usual: without /proc, a shell, rm or capabilities.

A sandbox runs there all the same, or says in one line what is missing. Nothing is left.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.cli import assert_one_line
from ..helpers.django_runs import servers_of
from ..helpers.projects import MakeProject
from ..helpers.suites import CLEAN_CACHE
from ..helpers.users import ANOTHER_USER, as_root, run_as, stripped

pytestmark = as_root


@pytest.fixture(autouse=True)
def _nothing_left(run_folder: Path) -> Iterator[None]:
    yield
    assert list(run_folder.iterdir()) == []


@pytest.fixture
def without_proc() -> tuple[str, ...]:
    return stripped("umount -l /proc")


def without(path: str) -> tuple[str, ...]:
    """Return the command before one that shall not find an executable there."""
    if Path(path).resolve().name == "busybox":
        pytest.skip("this executable is all others, too")
    return stripped(f"mount --bind /dev/null {Path(path).resolve()}")


@pytest.mark.parametrize("command", [("exec", "true"), ("exec", "--unix", "true")])
def test_server_of_root_needs_proc(
    run: Run, without_proc: tuple[str, ...], command: tuple[str, ...]
) -> None:
    result = run(*without_proc, "sandbox", *command)
    assert_one_line(result, 125, "reaches its files through /proc: mount /proc, or run as another")


def test_start_for_a_shell_needs_proc(run: Run, without_proc: tuple[str, ...]) -> None:
    result = run(*without_proc, "sandbox", "start")
    assert_one_line(result, 125, "cannot be seen without /proc: mount /proc, or use 'sandbox exec'")


def test_list_and_stop_do_without_proc(run: Run, without_proc: tuple[str, ...]) -> None:
    for command in (["list"], ["stop", "--stale"]):
        result = run(*without_proc, "sandbox", *command)
        assert (result.returncode, "Traceback" in result.stderr) == (0, False)


def test_doctor_names_the_missing_proc(run: Run, without_proc: tuple[str, ...]) -> None:
    result = run(*without_proc, "sandbox", "doctor")
    assert (result.returncode, result.stderr) == (1, "")
    assert "processes          not to be seen: /proc is not mounted\n" in result.stdout
    assert "MEMCACHED_SANDBOX_BINARY" not in result.stdout


@pytest.mark.parametrize("name", ["sh", "rm", "rmdir"])
def test_missing_tool_of_the_reaper_is_named(run: Run, name: str) -> None:
    result = run(*without(f"/bin/{name}"), "sandbox", "exec", "true")
    assert_one_line(result, 125, f"reaper cannot be started: no executable '{name}' in /bin, /usr")


def lacking(capabilities: str) -> tuple[str, ...]:
    """Return the command before one that shall lack capabilities."""
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv here")
    return ("setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities)


# Fails if the flush does not wait for what a client has sent.
FLUSH = """
from sandbox import Memcached
with Memcached() as server:
    client = server.client()
    for _ in range(30):
        client.set_many({f"key-{number}": number for number in range(500)})
        server.flush()
        assert client.get("key-499") is None
"""


def test_root_without_ptrace_flushes_by_asking(run: Run) -> None:
    """Most containers of CI are such: root may not see the threads of the user nobody."""
    poor = lacking("-sys_ptrace,-sys_admin")
    result = run(*poor, sys.executable, "-c", FLUSH)
    assert result.returncode == 0, result.stderr
    result = run(*poor, "sandbox", "doctor")
    assert re.search("(?m)^flush +exact with one thread, .*without CAP_SYS_PTRACE$", result.stdout)


def test_root_without_capabilities_serves_as_itself(run: Run) -> None:
    """Such a root may not give files to the user nobody: in a container, for instance."""
    poor = lacking("-all")
    for option in ("--no-guard", "--unix"):
        result = run(
            *poor, "sandbox", "exec", option, "sh", "-c", "stat -c %u /proc/$MEMCACHED_SANDBOX_PID"
        )
        assert (result.returncode, result.stdout) == (0, "0\n"), result.stderr
    result = run(*poor, "sandbox", "doctor")
    assert (
        "memcached runs as root, which may not give its files to the user 'nobody'" in result.stdout
    )


def test_user_namespace_serves_in_a_folder_of_its_user() -> None:
    """What a user namespace does not map belongs to nobody, /tmp for instance."""
    result = run_as(
        ANOTHER_USER,
        "import os, subprocess\n"
        "script = '''\n"
        "import os\n"
        "from sandbox import Memcached, SandboxError\n"
        "os.mkdir('own'); os.environ['TMPDIR'] = os.path.abspath('own')\n"
        "with Memcached() as server: server.flush(); print('served')\n"
        "os.rmdir('own')\n"
        "os.environ['TMPDIR'] = '/tmp'\n"
        "try: Memcached().start()\n"
        "except SandboxError as error: print(error)\n"
        "'''\n"
        "subprocess.run(['unshare', '--map-root-user', sys.executable, '-c', script])\n",
    )
    if "unshare" in result.stderr:
        pytest.skip("no user namespace can be made here")
    served, refused = result.stdout.splitlines()
    assert served == "served"
    assert "/tmp belongs to another user (65534, perhaps one that this user namespace" in refused


@pytest.fixture
def without_loopback() -> tuple[str, ...]:
    """The one interface of a new network is down: so it is in build sandboxes."""
    return stripped("true", "--net")


def test_missing_loopback_is_named_with_the_option_that_does_without(
    run: Run, without_loopback: tuple[str, ...]
) -> None:
    result = run(*without_loopback, "sandbox", "exec", "true")
    assert_one_line(
        result, 125, "connect to 127.0.0.1, as without a loopback interface: Network is"
    )
    assert "on a Unix socket, by --unix, MEMCACHED_SANDBOX_UNIX=1 or unix_so" in result.stderr


def test_tests_with_a_unix_socket_need_no_loopback(
    run: Run, make_project: MakeProject, without_loopback: tuple[str, ...]
) -> None:
    project = make_project("127.0.0.1:11211")
    project.write("tests.py", CLEAN_CACHE)
    tests = ("./manage.py", "test", "--parallel", "2")
    command = (*without_loopback, "sandbox", "exec", "--unix", "--", *tests)
    result = run(*command, cwd=project.folder)
    assert result.returncode == 0, result.stderr
    assert servers_of(result) == 3
