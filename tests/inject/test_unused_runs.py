"""A run that nothing uses says so at its end, and why: its tests may be on the main memcached."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sandbox.inject import rest

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import PYMEMCACHE, InProcess, MakeProject, Project, pytest_command

NOTHING = "nothing used the sandbox: "

LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}

# Sends bytes to the server, in a Python that knows of the run by its address alone.
SENDS = (
    f"{sys.executable} -I -c 'if 1:\n"
    """
    import os, socket
    host, port = os.environ["MEMCACHED_SANDBOX_ADDRESS"].split(":")
    with socket.create_connection((host, port)) as connection:
        connection.sendall(b"{}\\r\\n")
        connection.recv(100)'"""
)


def strict(run: Run, *command: str) -> str:
    """Run a command under a strict exec, have it fail for nothing else, and return its line.

    A second one may say what the guard of the kernel did not know.
    """
    result = run("sandbox", "exec", "--strict", "--", *command)
    assert result.returncode == 125
    line, *others = result.stderr.splitlines()
    assert len(others) <= 1
    assert all("no process told its CACHES" in other for other in others)
    return line.removeprefix("sandbox: ")


@pytest.mark.parametrize("command", [["true"], ["env", "-i", "/bin/sh", "-c", "exit 0"]])
def test_command_that_has_not_asked_is_told_of_its_environment(
    run: Run, command: list[str]
) -> None:
    line = strict(run, *command)
    assert line.startswith(f"{NOTHING}no Django reached it, and no program used MEMCACHED_SANDBO")
    assert "its Python may lack PYTHONPATH or MEMCACHED_SANDBOX_*, as in PEX files" in line


def test_command_without_injection_is_told_of_the_address(run: Run) -> None:
    result = run("sandbox", "exec", "--no-inject", "--", "true")
    told = f"sandbox: {NOTHING}no program used MEMCACHED_SANDBOX_ADDRESS; --redirect leads all "
    assert result.returncode == 0
    assert result.stderr.startswith(told)
    assert result.stderr.count("\n") == 1


def test_lost_variables_are_named(make_project: MakeProject, main_memcached: MainMemcached) -> None:
    """Without MEMCACHED_SANDBOX_CONTROL, the process cannot tell the run what it lacks."""
    project = make_project(main_memcached.address)
    for lost, told in (
        (
            "RUN_FLUSH",
            f"{NOTHING}a process had its PYTHONPATH, but not MEMCACHED_SANDBOX_RUN_FLUSH:",
        ),
        (
            "CONTROL",
            f"{NOTHING}no Django reached it, and no program used MEMCACHED_SANDBOX_ADDRESS;",
        ),
    ):
        unset = ("env", "-u", f"MEMCACHED_SANDBOX_{lost}")
        result = project.sandboxed("--", *unset, "./manage.py", "check", "--tag", "caches")
        assert result.stderr.splitlines()[-1].startswith(f"sandbox: {told} ")


def test_sandbox_within_is_use(run: Run) -> None:
    result = run("sandbox", "exec", "--strict", "--", "sandbox", "exec", "-q", "--", "true")
    assert (result.returncode, NOTHING in result.stderr) == (0, False), result.stderr


def test_sandbox_within_one_that_has_ended_says_nothing_of_it(run: Run, tmp_path: Path) -> None:
    ended = f"{tmp_path}/ended"
    result = run("sandbox", "exec", "-q", "--", "true", MEMCACHED_SANDBOX_CONTROL=ended)
    assert (result.returncode, result.stderr) == (0, "")


def test_failed_command_keeps_its_status(run: Run) -> None:
    result = run("sandbox", "exec", "--strict", "--", "sh", "-c", "exit 3")
    assert (result.returncode, NOTHING in result.stderr) == (3, True)


def test_workers_that_ask_for_nothing_are_no_use(make_project: MakeProject) -> None:
    """They have servers of their own, for programs that take the address from the environment."""
    project = make_project({"default": LOCAL})
    project.write("test_it.py", "def test_one(): pass\ndef test_two(): pass\n")
    tests = "from unittest import TestCase\nclass {}(TestCase):\n    def test(self): pass\n"
    project.write("tests.py", tests.format("A") + tests.format("B"))
    parallel = ("./manage.py", "test", "--parallel", "2")
    for command in (pytest_command("-n2"), parallel):
        result = project.sandboxed("--strict", "--", *command, START_METHOD="fork")
        assert f"{NOTHING}no alias of CACHES" in result.stderr, result.stderr
        assert result.returncode == 125


def test_quiet_run_tells_only_if_it_is_strict(run: Run) -> None:
    result = run("sandbox", "exec", "--quiet", "--", "true")
    assert (result.returncode, result.stderr) == (0, "")
    assert NOTHING in run("sandbox", "exec", "--quiet", "--strict", "--", "true").stderr


@pytest.mark.parametrize("line", ["version", "stats", "flush_all", "get a", "stats reset"])
def test_any_use_of_the_address_is_use(run: Run, line: str) -> None:
    result = run("sandbox", "exec", "--strict", "--", "sh", "-c", SENDS.format(line))
    assert (result.returncode, NOTHING in result.stderr) == (0, False)


# Tests without Django. One of them may send a line.
TESTS = """
import os, socket, pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    line = {!r}
    if number == 1 and line:
        host, port = os.environ["MEMCACHED_SANDBOX_ADDRESS"].split(":")
        with socket.create_connection((host, port)) as connection:
            connection.sendall(line)
            connection.recv(100)
"""

ONE_PROCESS = ()
XDIST = ("-n2",)


@pytest.mark.parametrize("options", [ONE_PROCESS, XDIST])
def test_flushes_after_tests_are_no_use(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(b""))
    command = pytest_command("-pno:django", *options)
    result = run("sandbox", "exec", "--strict", "--", *command, cwd=tmp_path)
    assert f"sandbox: {NOTHING}no Django reached it" in result.stderr
    assert result.returncode == 125


def test_flushes_that_ask_whether_a_server_rests_are_no_use(run: Run, tmp_path: Path) -> None:
    """They open a connection each: /proc shows nothing of a process of another namespace."""
    (tmp_path / "test_it.py").write_text(TESTS.format(b""))
    elsewhere = ("env", f"{rest.NAMESPACE}=elsewhere", *pytest_command("-pno:django"))
    result = run("sandbox", "exec", "--strict", "--", *elsewhere, cwd=tmp_path)
    assert (result.returncode, NOTHING in result.stderr) == (125, True)
    (tmp_path / "test_it.py").write_text(TESTS.format(b"get a\r\nstats reset\r\n"))
    result = run("sandbox", "exec", "--strict", "--", *elsewhere, cwd=tmp_path)
    assert (result.returncode, NOTHING in result.stderr) == (0, False)


def test_flushes_of_forks_are_no_use(run: Run) -> None:
    """They may end without their exit handlers."""
    script = """if 1:
        import os, unittest
        test = unittest.FunctionTestCase(int)
        test()
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            test()
            os._exit(0)
    """
    result = run("sandbox", "exec", "--strict", "--", sys.executable, "-c", script)
    assert (result.returncode, NOTHING in result.stderr) == (125, True)


def test_what_a_killed_process_sent_counts_as_use(run: Run) -> None:
    """It has told of no flush."""
    script = "import os, unittest; unittest.FunctionTestCase(int)(); os.kill(os.getpid(), 9)"
    command = ("sh", "-c", '"$@"; :', "sh", sys.executable, "-c", script)
    result = run("sandbox", "exec", "--strict", "--", *command)
    assert (result.returncode, NOTHING in result.stderr) == (0, False)


@pytest.mark.parametrize("options", [ONE_PROCESS, XDIST])
@pytest.mark.parametrize("line", [b"version\r\n", b"flush_all\r\n", b"get a\r\nstats reset\r\n"])
def test_what_a_test_sends_is_use_beside_flushes(
    run: Run, tmp_path: Path, line: bytes, options: tuple[str, ...]
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(line))
    command = pytest_command("-pno:django", *options)
    result = run("sandbox", "exec", "--strict", "--", *command, cwd=tmp_path)
    assert (result.returncode, NOTHING in result.stderr) == (0, False)


def test_project_without_memcached_is_told_of_its_backends(
    make_project: MakeProject,
) -> None:
    project = make_project({"default": LOCAL})
    result = project.sandboxed("--strict", "--", "./manage.py", "check")
    told = f"sandbox: {NOTHING}no alias of CACHES is a memcached ('default' is LocMemCache)"
    assert result.returncode == 125
    assert result.stderr.splitlines()[-1].startswith(f"{told}; --redirect")


def test_excluded_alias_is_named_with_its_address(
    make_project: MakeProject, main_memcached: MainMemcached
) -> None:
    address = main_memcached.address
    main = {"BACKEND": PYMEMCACHE, "LOCATION": address}
    project = make_project({"default": main, "other": main})
    result = project.sandboxed("--strict", "--exclude", "other", "--", "./manage.py", "check")
    left = f"sandbox: excluded aliases were left where they are: 'other' at {address}"
    assert (result.returncode, NOTHING in result.stderr) == (0, False)
    assert left in result.stderr.splitlines()
    both = ("--exclude", "default", "--exclude", "other")
    result = project.sandboxed("--strict", *both, "--", "./manage.py", "check")
    assert result.returncode == 125
    left = left.replace("'other'", f"'default' at {address}, 'other'")
    unused, *others = result.stderr.splitlines()[-2:]
    assert unused.startswith(f"sandbox: {NOTHING}each memcached alias of CACHES is excluded; ")
    assert others == [left]


def test_plugin_tells_of_it(in_process: InProcess) -> None:
    in_process.write("test_it.py", "def test(): pass\n")
    result = in_process.pytest()
    assert (result.returncode, f"memcached-sandbox: {NOTHING}no " in result.stdout) == (0, True)
    result = in_process.pytest("--memcached-sandbox-strict")
    assert (result.returncode, f"memcached-sandbox: {NOTHING}no " in result.stdout) == (1, True)
    result = in_process.pytest("--collect-only", "--memcached-sandbox-strict")
    assert (result.returncode, NOTHING in result.stdout) == (0, False)


@pytest.mark.parametrize("options", [ONE_PROCESS, XDIST])
def test_further_servers_of_a_test_are_use(plain: Project, options: tuple[str, ...]) -> None:
    plain.write("test_it.py", "def test(memcached_factory): memcached_factory()\n")
    result = plain.pytest("--memcached-sandbox-strict", *options)
    assert (result.returncode, NOTHING in result.stdout) == (0, False), result.stdout


def test_workers_of_the_plugin_tell_of_their_backends(
    make_project: MakeProject, main_memcached: MainMemcached
) -> None:
    project = make_project({"default": LOCAL})
    project.write("test_it.py", "def test_one(): pass\ndef test_two(): pass\n")
    options = ("-n2", "--memcached-sandbox", "--memcached-sandbox-strict")
    result = project.pytest(*options)
    told = f"memcached-sandbox: {NOTHING}no alias of CACHES is a memcached ('default' is LocMemC"
    assert (result.returncode, result.stdout.count(told)) == (1, 1)
    project = make_project(main_memcached.address)
    result = project.pytest(*options)
    assert (result.returncode, NOTHING in result.stdout) == (0, False)


def test_strict_runner_fails_for_it(make_project: MakeProject) -> None:
    project: Project = make_project({"default": LOCAL})
    project.write(
        "tests.py", "from unittest import TestCase\nclass T(TestCase):\n def test(self): pass"
    )
    runner = "--testrunner=sandbox.django.runner.SandboxRunner"
    result = project.manage("test", runner, "--memcached-strict")
    assert (result.returncode, NOTHING in result.stdout) == (1, True)
