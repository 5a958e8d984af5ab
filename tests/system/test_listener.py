"""The listener at a server's address must be the program that was started."""

from __future__ import annotations

import os
import tempfile
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


# A memcached that listens elsewhere than it was told.
ELSEWHERE = """\
#!/bin/sh
for word; do
    case $last in -p) port=$word ;; esac
    last=$word
done
exec memcached -u nobody {arguments}
"""


@pytest.fixture(params=["the kernel tells", "the server is asked"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is known from who listens."""
    if request.param == "the server is asked":
        refuse_to_tell(monkeypatch)


def refuse_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel tell as little as in a container."""

    def refused(*_: object) -> int:
        raise PermissionError

    for name in ("_sockets_of", "_tcp_listener_inode", "_unix_listener_pid"):
        monkeypatch.setattr(f"sandbox.system.processes.{name}", refused)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("-l 0.0.0.0 -p $port -U 0", "alone, but its settings are inter 0.0.0.0, "),
        ("-p $port -U 0", "alone, but its settings are inter NULL, "),
        ("-l 127.0.0.1 -p $port -U $port", r"alone, but its settings are .* udpport [1-9]"),
        ("-l 127.0.0.1 -p -1 -U 0", "does not answer as a memcached does at 127.0.0.1:.* refused"),
    ],
)
def test_memcached_that_listens_elsewhere_is_refused(
    tmp_path: Path, arguments: str, problem: str
) -> None:
    liar = script(tmp_path / "liar", ELSEWHERE.format(arguments=arguments))
    with pytest.raises(StartError, match=problem):
        Memcached(binary=liar).start()


def test_port_of_another_process_is_refused(main_memcached: MainMemcached, tmp_path: Path) -> None:
    """The port that was asked for is held, and the one that a program tells is not believed."""
    liar = liar_about(main_memcached.port, tmp_path)
    with pytest.raises(StartError, match="does not answer as a memcached does at .* refused"):
        Memcached(binary=liar).start()


def test_port_of_another_process_is_refused_where_none_can_be_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with PlainMemcached() as other, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("TMPDIR", folder)
        with pytest.raises(StartError, match="another process than the one that was started"):
            Memcached(binary=liar_about(other.port, tmp_path)).start()


def liar_about(port: int, folder: Path) -> Path:
    """Write a program that says that it listens at a port."""
    return script(
        folder / "liar",
        f'#!/bin/sh\necho "TCP INET: {port}" >>"$MEMCACHED_PORT_FILENAME.lck"\nexec sleep 100\n',
    )


@pytest.mark.parametrize("unix_socket", [False, True])
def test_server_is_asked_where_the_kernel_refuses_to_tell(
    monkeypatch: pytest.MonkeyPatch, unix_socket: bool
) -> None:
    refuse_to_tell(monkeypatch)
    with Memcached(unix_socket=unix_socket) as server:
        assert server.asked is not None
        assert int(server.stats()["bytes_read"]) == server.asked.bytes_sent + len("stats\r\n")
        server.flush()
