"""What the reaper and the server inherit: few variables, and no descriptor of the other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.system.reaper import VARIABLES

from ..helpers.owners import reaper_of
from ..helpers.processes import script


def test_server_and_reaper_inherit_few_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
