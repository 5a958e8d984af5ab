"""Sandbox: a server for each address, all of them or none, and its control directory."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import psutil
import pytest

from sandbox import BinaryError, OptionError, Sandbox, StartError
from sandbox.server.binary import find_memcached

from ..conftest import Run
from ..helpers.processes import script


def test_spellings_of_one_place_share_a_server() -> None:
    with Sandbox() as box:
        first = box.resolve(["localhost:11211", "127.0.0.1:11211", "[::1]:11211"])
        assert len(set(first.values())) == 1
        again = box.resolve(["127.0.0.2:11211", *first.values()])
        assert {*again.values()} == {*first.values()}
        assert len(box.servers) == 1


def test_each_distinct_address_has_a_server() -> None:
    with Sandbox(memory_mb=8) as box:
        first = box.resolve(["a:1", "b:1", "a:1"])
        assert list(first) == ["a:1", "b:1"]
        assert len(set(first.values())) == 2
        second = box.resolve(["b:1", "c:1"])
        assert second["b:1"] == first["b:1"]
        assert [server.address for server in box.servers] == [
            first["a:1"],
            first["b:1"],
            second["c:1"],
        ]
    assert box.servers == []


def test_servers_are_ended_if_another_does_not_start(tmp_path: Path) -> None:
    once = script(
        tmp_path / "once", f'#!/bin/sh\nmkdir {tmp_path}/lock && exec memcached "$@"; exit 4\n'
    )
    with Sandbox(binary=once) as box:
        with pytest.raises(StartError, match="exit code 4"):
            box.resolve(["a:1", "b:1", "c:1"])
        assert box.servers == []


def test_launched_servers_are_ended_if_another_cannot_be_launched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    binaries = iter([find_memcached(), find_memcached(), ("/no/memcached",)])
    monkeypatch.setattr("sandbox.server.memcached.find_memcached", lambda _: next(binaries))
    with Sandbox() as box:
        (server,) = box.launch(1)
        server.wait()
        children = len(psutil.Process().children())
        with pytest.raises(BinaryError) as info:
            box.launch(2)
        # The traceback in `info` has references to all servers: none ends for the lack of them.
        assert len(psutil.Process().children()) == children
        assert "/no/memcached cannot be executed (No such file" in str(info.value)
        assert box.servers == [server]


def test_control_directory_is_removed_with_an_unreferenced_sandbox(run_folder: Path) -> None:
    box = Sandbox()
    box.resolve(["a:1"])
    assert box.control_directory.name in os.listdir(next(run_folder.iterdir()))
    del box
    gc.collect()
    assert list(run_folder.iterdir()) == []


def test_control_directory_is_not_removed_by_a_fork(python: Run) -> None:
    result = python(
        "import os\n"
        "from sandbox import Sandbox\n"
        "box = Sandbox()\n"
        "box.resolve(['a:1'])\n"
        "directory = box.control_directory\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    box.stop()\n"
        "    del box\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(directory.is_alive(), os.path.isdir(directory.path))\n"
    )
    assert (result.stdout, result.stderr) == ("True True\n", "")


def test_wrong_option_is_an_error_before_a_server_is_started() -> None:
    with pytest.raises(OptionError):
        Sandbox(memory_mb=0)
