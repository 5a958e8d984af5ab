"""A failure of the sandbox fails the run: no test falls back to the main memcached."""

from __future__ import annotations

import shutil

from sandbox.inject import FOLDER

from ..helpers.projects import Project
from ..helpers.suites import KILLS_MEMCACHED


def test_control_socket_without_an_answer_fails_the_run(project: Project) -> None:
    result = project.sandboxed(
        "--", "sh", "-c", "MEMCACHED_SANDBOX_CONTROL=/nowhere ./manage.py test"
    )
    assert "the sandbox of this run has ended: nobody listens at /nowhere" in result.stderr
    assert result.returncode == 1
    result = project.sandboxed(
        "--", "sh", "-c", "MEMCACHED_SANDBOX_CONTROL=/dev/null ./manage.py test"
    )
    assert "sandbox: the run's sandbox does not answer" in result.stderr
    assert result.returncode == 1


def test_python_that_cannot_load_the_hooks_exits(project: Project) -> None:
    broken = project.folder / "inject"
    shutil.copytree(FOLDER, broken)
    (broken / "_memcached_sandbox" / "hooks.py").write_text("1 / 0\n")
    result = project.sandboxed(
        "--", "sh", "-c", f"PYTHONPATH={broken} python -c 'print(5)'; echo $?"
    )
    assert result.stdout == "125\n"
    fault = "this Python cannot be sandboxed: ZeroDivisionError('division by zero')"
    assert result.stderr.splitlines()[0] == f"sandbox: {fault}"


def test_killed_memcached_fails_the_run(project: Project) -> None:
    project.write("tests.py", KILLS_MEMCACHED)
    result = project.sandboxed("--", "./manage.py", "test")
    assert "sandbox's memcached cannot be emptied" in result.stderr
    assert result.returncode == 1
