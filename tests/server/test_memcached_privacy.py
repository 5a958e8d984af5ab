"""What keeps a server apart: its sockets, its user, its process group and its directory."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import Memcached, StartError
from sandbox.system import processes

from ..helpers.users import as_root, run_as


def sockets(pid: int) -> list[Any]:
    """Return the Internet sockets of a server. As root, its process is another user's."""
    try:
        return psutil.Process(pid).net_connections(kind="inet")
    except psutil.AccessDenied:
        pytest.skip("this root may not look at other users' sockets: it lacks CAP_SYS_PTRACE")


def test_server_listens_on_loopback_only_and_not_on_udp() -> None:
    with Memcached() as server:
        (connection,) = sockets(server.pid)
        assert connection.laddr == ("127.0.0.1", server.port)
        assert connection.status == psutil.CONN_LISTEN


def test_server_on_a_unix_socket_has_no_internet_socket(run_folder: Path) -> None:
    with Memcached(unix_socket=True) as server:
        assert server.address.startswith(f"unix:{run_folder}/")
        assert server.host is None
        assert server.port is None
        with closing(server.client()) as client:
            client.set("key", "value")
            assert client.get("key") == b"value"
        assert sockets(server.pid) == []


def test_server_directory_is_for_its_owner_alone(run_folder: Path) -> None:
    with Memcached() as server:
        (run_directory,) = run_folder.iterdir()
        (directory,) = run_directory.iterdir()
        assert server.directory == str(directory)
        for folder in (run_directory, directory):
            status = folder.stat()
            assert stat.S_IMODE(status.st_mode) == 0o700
            assert status.st_uid == os.geteuid()


def test_server_has_its_own_process_group_and_is_not_root() -> None:
    """A terminal sends its signals to its foreground process group."""
    with Memcached() as server:
        assert os.getpgid(server.pid) != os.getpgrp()
        assert psutil.Process(server.pid).uids().effective != 0


@as_root
def test_server_of_an_ordinary_user_runs_as_that_user() -> None:
    """As root, the other tests start servers of the user nobody."""
    result = run_as(
        "nobody",
        "import os\n"
        "assert os.geteuid() != 0\n"
        "from sandbox import Memcached\n"
        "for unix_socket in (False, True):\n"
        "    with Memcached(unix_socket=unix_socket) as server:\n"
        "        server.flush()\n"
        "        assert os.stat(f'/proc/{server.pid}').st_uid == os.geteuid()\n"
        "        assert server.directory.startswith(os.environ['TMPDIR'])\n",
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_root_needs_a_user_nobody_for_its_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", lambda name: {}[name])
    processes._nobody.cache_clear()
    with pytest.raises(StartError, match="must not run as root, and this system has no user"):
        Memcached().start()
