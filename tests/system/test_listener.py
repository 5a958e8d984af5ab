"""The listener at a server's address must be the program that was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import Memcached, StartError

from ..helpers.memcacheds import MainMemcached, PlainMemcached
from ..helpers.processes import pid_in, script, wait_until_gone


def test_memcached_in_a_child_of_the_program_is_refused(tmp_path: Path) -> None:
    parent = script(
        tmp_path / "parent", f'#!/bin/sh\nmemcached "$@" & echo $! >{tmp_path}/pid; wait\n'
    )
    with pytest.raises(StartError, match="another process.*let it end with 'exec memcached"):
        Memcached(binary=parent).start()
    wait_until_gone(pid_in(tmp_path / "pid"))


def test_port_of_another_process_is_refused(main_memcached: MainMemcached, tmp_path: Path) -> None:
    port = main_memcached.port
    liar = script(
        tmp_path / "liar",
        f'#!/bin/sh\necho "TCP INET: {port}" >>"$MEMCACHED_PORT_FILENAME.lck"\nexec sleep 100\n',
    )
    with pytest.raises(StartError, match="another process than the one that was started"):
        Memcached(binary=liar).start()


def test_port_of_another_process_is_refused_where_the_kernel_refuses_to_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("sandbox.system.processes._tcp_listener_inode", refused)
    with PlainMemcached() as other:
        liar = script(
            tmp_path / "liar",
            f'#!/bin/sh\necho "TCP INET: {other.port}" >>"$MEMCACHED_PORT_FILENAME.lck"\n'
            "exec sleep 100\n",
        )
        with pytest.raises(StartError, match="another process than the one that was started"):
            Memcached(binary=liar).start()


@pytest.mark.parametrize("unix_socket", [False, True])
def test_server_is_asked_where_the_kernel_refuses_to_tell(
    monkeypatch: pytest.MonkeyPatch, unix_socket: bool
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("sandbox.system.processes._tcp_listener_inode", refused)
    monkeypatch.setattr("sandbox.system.processes._unix_listener_pid", refused)
    with Memcached(unix_socket=unix_socket) as server:
        server.flush()
