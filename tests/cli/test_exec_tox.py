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
