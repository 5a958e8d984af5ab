"""Processes that lack what makes them processes of the run are told, or the run is told of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sandbox.errors import RunError
from sandbox.inject import children, hooks, run
from sandbox.run.environment import Injection, injection_variables

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import InProcess, Project
from ..helpers.users import ANOTHER_USER, INTERPRETER, as_root

FOLDER = children.FOLDER

OTHER = {"PATH": os.environ["PATH"]}
NAME = os.path.basename(sys.executable)


def popen(*words: object, env: object = None, cwd: object = None) -> tuple[str, tuple[object, ...]]:
    return "subprocess.Popen", (words[0], [*words], cwd, env)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was reported of the programs that this process starts."""
    told: list[str] = []
    monkeypatch.setenv("PYTHONPATH", f"/else:{FOLDER}")
    monkeypatch.setattr(children, "_report", told.append)
    return told


@pytest.mark.parametrize(
    ("event", "arguments", "told"),
    [
        (*popen("python3", "-I", "-m", "x"), "python3 -I"),
        (*popen("/usr/bin/python3.12", "-WE", "-X", "S", "-uS", "x"), "python3.12 -S"),
        (*popen(b"pypy3", b"-bE"), "pypy3 -E"),
        (*popen(Path("/opt/python"), "-sE"), "python -E"),
        (*popen("python", "x", env=OTHER), "python without PYTHONPATH"),
        (*popen("python", env={b"PYTHONPATH": b"/else"}), "python without PYTHONPATH"),
        (*popen("/bin/sh", "-c", "A=1 python3 -S x"), "python3 -S"),
        ("os.system", ("python3 -I",), "python3 -I"),
        ("os.exec", (sys.executable, ("any", "-I"), None), f"{NAME} -I"),
        ("os.posix_spawn", (sys.executable, ["any"], OTHER), f"{NAME} without PYTHONPATH"),
        ("os.posix_spawn", ("python", ["any", "-I"], None), "python -I"),
    ],
)
def test_python_apart_is_reported(
    event: str, arguments: tuple[object, ...], told: str, starts: list[str]
) -> None:
    children.see_start(event, arguments)
    assert starts == [told]


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        popen("python3", "-c", "-I"),
        popen("python3", "-u", "x", "-I"),
        popen("python3", "-WI", "-X", "E", "-m", "x", "-S"),
        popen("python3", "--version"),
        popen("python3", env={**OTHER, "PYTHONPATH": f"{FOLDER}:"}),
        popen("true", env={}),
        popen("python3-config", env={}),
        popen("python3", "-I", "-m", "pip", "install", "x"),
        popen("python3", env={**OTHER, "PYTHONPATH": f"{FOLDER}/"}),
        popen("no-such-program", env={}),
        popen("sh", "-c", "", env={}),
        popen("sh", "-c", env={}),
        popen("python3", 5, "-I"),
        popen("python3", env=5),
        popen("env", f"PYTHONPATH={FOLDER}", "python", env={}),
        popen("env", "-u", "HOME", "nice", "-n", "5", "python", "x", "-I"),
        popen("env"),
        popen("command", "-v", "python", "-I"),
        popen("bash", "-e", "python", "-I"),
        ("os.exec", ("/no/such/python3", ("python3", "-I"), None)),
        ("os.posix_spawn", ("/no/such/python3", ("python3", "-I"), None)),
        ("os.exec", ("python3", None, None)),
        ("os.exec", ("", (), None)),
    ],
)
def test_other_programs_are_not_reported(
    event: str, arguments: tuple[object, ...], starts: list[str]
) -> None:
    children.see_start(event, arguments)
    assert starts == []


def test_python_is_reported_if_this_process_has_lost_pythonpath(
    starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    children.see_start(*popen("python"))
    assert starts == [WITHOUT]


WITHOUT = "python without PYTHONPATH"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("env -i python x", [WITHOUT]),
        ("env -u PYTHONPATH -uHOME python", [WITHOUT]),
        ("env --unset=PYTHONPATH FOO=1 python", [WITHOUT]),
        ("/usr/bin/env FOO=1 python -I", ["python -I"]),
        ("timeout -k 5 --signal KILL 5 python -I x.py", ["python -I"]),
        ("nice -10 nohup setsid -w stdbuf -oL python -I", ["python -I"]),
        ("A='b c' nice -n 5 env -i bash -c python", [WITHOUT]),
        ("bash -ec 'python -I'", ["python -I"]),
        ("bash -eo pipefail --norc -c 'python -I' -S", ["python -I"]),
        ("PYTHONPATH=/else python", [WITHOUT]),
        ("cd / && exec python -I x.py", ["python -I"]),
        ("a; python -I;b | python -S 2>&1|c", ["python -I", "python -S"]),
        ("a\nnice \\\n python -I", ["python -I"]),
        ("echo $(python -I)", ["python -I"]),
        ("PYTHONPATH=.:$PYTHONPATH python", []),
        ("echo python -I", []),
        ("echo 'a; python -I' \"it's; python -I\" \\;b", []),
        ("echo a# python -I # it's python; python -I", []),
        ("cat <<END\npython -I\nEND", []),
        ("python x | grep -I", []),
        ("nice; env ./script python -I; env python -S", ["python -S"]),
        ("cd 'x", []),
    ],
)
def test_commands_of_shells_are_seen(command: str, told: list[str], starts: list[str]) -> None:
    children.see_start("os.system", (command,))
    assert starts == told


@pytest.mark.parametrize(
    ("line", "environ", "told"),
    [
        ("#!/usr/bin/python3 -Es", None, ["python3 -E"]),
        ("#!/usr/bin/env -S A=1 python3 -I", None, ["python3 -I"]),
        ("#!/usr/bin/env python3", {"PATH": "/none:.."}, ["python3 without PYTHONPATH"]),
        ("#!/usr/bin/env python3", None, []),
        ("#!/bin/sh", {"PATH": ".."}, []),
        ("#!", {"PATH": ".."}, []),
        ("", {"PATH": ".."}, []),
    ],
)
def test_scripts_are_known_by_their_first_line(
    line: str,
    environ: dict[str, str] | None,
    told: list[str],
    starts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script").write_text(f"{line}\n")
    (tmp_path / "folder").mkdir()
    children.see_start(*popen("script" if environ else "../script", env=environ, cwd="folder"))
    assert starts == told


def test_report_that_has_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    failures = [RunError("the first time")]

    class Run:
        def report_refusal(self, refusal: object) -> None:
            if failures:
                raise failures.pop()
            told.append(refusal)

    monkeypatch.setattr(run, "_run", Run())
    monkeypatch.setattr(children, "_reported", set())
    counts = []
    for _ in range(3):
        children.see_start(*popen("python", "-I"))
        counts.append(len(told))
    assert counts == [0, 1, 1]


STARTS = """
import os, subprocess, sys

for _ in range(2):
    subprocess.run([sys.executable, "-I", "-c", ""])
subprocess.run(["python", "-c", ""], env={"PATH": os.environ["PATH"]})
os.system("python -S -c ''")
os.waitpid(os.posix_spawn(sys.executable, ["python", "-E", "-c", ""], os.environ), 0)
os.spawnlp(os.P_WAIT, "python", "python", "-I", "-c", "")
subprocess.run([sys.executable, "-c", ""])
"""


def test_pythons_apart_are_told_at_the_end(run: Run, tmp_path: Path) -> None:
    """Each place once, some by name. They may need no cache, and fail no strict run."""
    (tmp_path / "starts.py").write_text(STARTS)
    result = run("sandbox", "exec", "--", sys.executable, "starts.py")
    name = os.path.basename(sys.executable)
    assert result.stderr.splitlines()[-1] == (
        f"sandbox: a Python was started without the sandbox at 5 places: {name} -I at "
        f"{tmp_path}/starts.py:5, python without PYTHONPATH at {tmp_path}/starts.py:6, "
        f"python -S at {tmp_path}/starts.py:7, and 2 more: it may use the main memcached"
    )


def test_place_that_several_processes_report_is_told_once(run: Run, tmp_path: Path) -> None:
    start = "import subprocess, sys\nsubprocess.run([sys.executable, '-I', '-c', ''])\n"
    (tmp_path / "starts.py").write_text(start)
    twice = ("sh", "-c", '"$@" && "$@"', "sh", sys.executable, "starts.py")
    result = run("sandbox", "exec", "--", *twice)
    name = os.path.basename(sys.executable)
    assert result.stderr.splitlines()[-1] == (
        f"sandbox: a Python was started without the sandbox: {name} -I at "
        f"{tmp_path}/starts.py:2: it may use the main memcached"
    )


def test_pythons_apart_are_told_by_the_plugin(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import subprocess, sys\n"
        "from django.core.cache import cache\n"
        "def test():\n"
        "    cache.set('a', 1)\n"
        "    subprocess.run([sys.executable, '-I', '-c', ''])\n",
    )
    result = django_in_process.pytest("--memcached-sandbox-strict")
    assert f"without the sandbox: {os.path.basename(sys.executable)} -I at" in result.stdout
    assert result.returncode == 0


def test_process_without_the_other_variables_is_told_which(
    project: Project, main_memcached: MainMemcached
) -> None:
    names = ("RUN_FLUSH", "CONTROL", "WORKER")
    lost = [f"MEMCACHED_SANDBOX_{name}" for name in names]
    unset = [word for name in lost for word in ("-u", name)]
    result = project.sandboxed("--", "env", *unset, "./manage.py", "test")
    assert result.returncode == 1
    assert (
        f"sandbox: this process has the PYTHONPATH of a sandbox, but not {' and '.join(lost)}: "
        "pass on all variables MEMCACHED_SANDBOX_* to it"
    ) in result.stderr.splitlines()


def test_process_without_the_guard_s_variable_connects_to_no_main_memcached(run: Run) -> None:
    connect = "import socket; socket.create_connection(('127.0.0.1', 11211))"
    lost = "MEMCACHED_SANDBOX_GUARDED"
    result = run("sandbox", "exec", "--", "env", "-u", lost, sys.executable, "-c", connect)
    assert result.returncode == 1
    assert (
        f"sandbox: this process has the PYTHONPATH of a sandbox, but not {lost}: " in result.stderr
    )


@as_root
@pytest.mark.skipif(not os.path.exists(INTERPRETER), reason="there is no python3 for all users")
def test_process_of_another_user_is_told_to_run_exec_as_that(run: Run, tmp_path: Path) -> None:
    asks = "from _memcached_sandbox import run; run.current_run().resolve(['a:1'])"
    as_another = f"import os; os.setuid({ANOTHER_USER}); {asks}"
    result = run("sandbox", "exec", "--", INTERPRETER, "-c", as_another)
    assert result.returncode == 1
    assert (
        "sandbox: the run's sandbox is another user's than this process, which runs as user "
        f"{ANOTHER_USER}: run 'sandbox exec' itself as that user"
    ) in result.stderr.splitlines()


def test_all_variables_of_a_run_count_as_lost() -> None:
    names = injection_variables({}, Injection((), "test", False, ())).keys()
    assert names - {"PYTHONPATH", "PYTEST_PLUGINS"} == {*hooks.SETTINGS}


def test_what_cannot_be_told_fails_no_call_of_the_program(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import os, subprocess, sys\n"
        "from unittest import mock\n"
        "from django.core.cache import cache\n"
        "def test(tmp_path):\n"
        "    cache.set('a', 1)\n"
        "    with mock.patch('builtins.open', side_effect=RuntimeError) as opened:\n"
        "        subprocess.run(['true'])\n"
        "    assert not opened.called\n"
        "    with mock.patch.dict(os.environ, MEMCACHED_SANDBOX_REFUSALS=str(tmp_path)):\n"
        "        if not (child := os.fork()):\n"
        "            sys.stderr = os.fdopen(2, 'w', closefd=False)\n"
        "            subprocess.run([sys.executable, '-I', '-c', ''])\n"
        "            os._exit(7)\n"
        "        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n",
    )
    result = django_in_process.pytest("-s")
    assert result.returncode == 0, result.stdout
    assert "sandbox: the run cannot be told of a report: [Errno 21]" in result.stderr


@as_root
@pytest.mark.skipif(not os.path.exists(INTERPRETER), reason="there is no python3 for all users")
def test_process_of_another_user_that_asks_for_nothing_is_flushed(run: Run) -> None:
    script = (
        f"import os, unittest; os.setuid({ANOTHER_USER})\n"
        "class T(unittest.TestCase):\n"
        "    def test(self): pass\n"
        "unittest.main()\n"
    )
    result = run("sandbox", "exec", "--", INTERPRETER, "-c", script)
    assert (result.returncode, "\nOK\n" in result.stderr) == (0, True), result.stderr
