"""`sandbox exec -- tox` with an unchanged tox.ini: tox keeps most variables from what it runs."""

from __future__ import annotations

import sys

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import Project
from ..helpers.suites import CLEAN_CACHE

pytest.importorskip("tox")

TOX = f"""
[tox]
env_list = common, own
no_package = true
[testenv]
allowlist_externals = *
commands =
    {sys.executable} -c 'import os; print("SEEN", os.environ.get("SEEN"), os.environ.get("URL"))'
    {sys.executable} manage.py test
[testenv:own]
pass_env = LANG
"""

TOML = f"""
env_list = ["toml"]
no_package = true
[env_run_base]
pass_env = ["LANG"]
allowlist_externals = ["*"]
commands = [["{sys.executable}", "manage.py", "test"]]
"""


@pytest.mark.usefixtures("main_memcached")
@pytest.mark.parametrize(("file", "text", "count"), [("tox.ini", TOX, 2), ("tox.toml", TOML, 1)])
def test_environments_of_tox_are_processes_of_the_run(
    project: Project, main_memcached: MainMemcached, file: str, text: str, count: int
) -> None:
    project.write("tests.py", CLEAN_CACHE)
    project.write(file, text)
    override = "testenv.set_env+=SEEN=yes"
    command = ("--strict", "--env", "URL=at-{port}", "--", "tox", "-q", "--workdir", ".tox")
    result = project.sandboxed(*command, TOX_OVERRIDE=override)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"sandbox: {count * 336} gets (90.5 % hits)" in result.stderr
    assert result.stdout.count("SEEN yes at-") == (count if file == "tox.ini" else 0)
    main_memcached.assert_untouched()


NO_INJECTION = f"""
[tox]
env_list = it
no_package = true
[testenv]
commands =
    {sys.executable} -c 'import os; [print("PASSED", name) for name in sorted(os.environ)]'
"""


@pytest.mark.usefixtures("main_memcached")
@pytest.mark.parametrize("outer", [(), ("-q", "--", "sandbox", "exec")])
def test_tox_keeps_what_no_inject_does_not_set(project: Project, outer: tuple[str, ...]) -> None:
    project.write("tox.ini", NO_INJECTION)
    options = ("--no-inject", "--env", "URL=at-{port}", "--")
    result = project.sandboxed(
        *outer, *options, "tox", "-q", "--workdir", ".tox", PYTHONPATH="/else", PYTEST_PLUGINS=""
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passed = {line[7:] for line in result.stdout.splitlines() if line.startswith("PASSED ")}
    assert {"MEMCACHED_SANDBOX_ADDRESS", "URL"} < passed
    assert not passed.intersection({"PYTHONPATH", "PYTEST_PLUGINS"})


@pytest.mark.usefixtures("main_memcached")
def test_exec_in_an_environment_of_tox_has_its_own_servers(project: Project) -> None:
    project.write("tests.py", CLEAN_CACHE)
    own = f"sandbox exec -- {sys.executable} manage.py test"
    project.write("tox.ini", TOX.replace(f"{sys.executable} manage.py test", own))
    result = project.sandboxed("--", "tox", "-q", "-p", "-o", "--workdir", ".tox")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (result.stdout + result.stderr).count("sandbox: 336 gets (90.5 % hits)") == 2
    assert "nothing used the sandbox" not in result.stderr
