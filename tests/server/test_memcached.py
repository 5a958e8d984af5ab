"""`Memcached`: what a server does from its start to its end."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import (
    BinaryError,
    Memcached,
    OptionError,
    Sandbox,
    SandboxError,
    Server,
    ServerError,
    StartError,
)

from ..conftest import Run
from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import pid_in, script, wait_until_gone


def sockets(pid: int) -> list[Any]:
    """Return the Internet sockets of a server. As root, its process is another user's."""
    try:
        return psutil.Process(pid).net_connections(kind="inet")
    except psutil.AccessDenied:
        pytest.skip("this root may not look at other users' sockets: it lacks CAP_SYS_PTRACE")


class TestRunning:
    def test_it_is_a_memcached_at_its_address(self) -> None:
        with Memcached() as server:
            assert server.address == f"127.0.0.1:{server.port}"
            assert server.host == "127.0.0.1"
            with closing(server.client()) as client:
                client.set("key", "value")
                assert client.get("key") == b"value"
                assert int(client.stats()[b"pid"]) == server.pid

    def test_flush_forgets_everything_and_nothing_that_comes_later(self) -> None:
        with Memcached() as server, closing(server.client()) as client:
            for number in range(200):
                client.set("key", "old")
                server.flush()
                assert client.get("key") is None
                client.set("key", number)
                assert client.get("key") == str(number).encode()

    def test_on_a_unix_socket(self, run_folder: Path) -> None:
        with Memcached(unix_socket=True) as server:
            assert server.address.startswith(f"unix:{run_folder}/")
            assert server.host is None
            assert server.port is None
            with closing(server.client()) as client:
                client.set("key", "value")
                assert client.get("key") == b"value"
            assert sockets(server.pid) == []

    def test_options_reach_memcached(self) -> None:
        with Memcached(
            memory_mb=8, max_item_size=2 * 1024 * 1024, threads=2, max_connections=77, args=["-C"]
        ) as server:
            settings = server.stats("settings")
            assert settings["maxbytes"] == str(8 * 1024 * 1024)
            assert settings["item_size_max"] == str(2 * 1024 * 1024)
            assert settings["num_threads"] == "2"
            assert settings["maxconns"] == "77"
            assert settings["cas_enabled"] == "no"

    def test_one_megabyte_with_small_items(self) -> None:
        with Memcached(memory_mb=1, max_item_size=512 * 1024) as server:
            assert server.stats()["limit_maxbytes"] == str(1024 * 1024)

    def test_it_listens_on_loopback_only_and_not_on_udp(self) -> None:
        with Memcached() as server:
            (connection,) = sockets(server.pid)
            assert connection.laddr == ("127.0.0.1", server.port)
            assert connection.status == psutil.CONN_LISTEN

    def test_process_group_is_its_own_and_user_is_not_root(self) -> None:
        """What a terminal sends is for its foreground process group."""
        with Memcached() as server:
            assert os.getpgid(server.pid) != os.getpgrp()
            assert psutil.Process(server.pid).uids().effective != 0

    def test_its_directory_is_for_its_owner_alone(self, run_folder: Path) -> None:
        with Memcached() as server:
            (run_directory,) = run_folder.iterdir()
            (directory,) = run_directory.iterdir()
            assert server.directory == str(directory)
            for folder in (run_directory, directory):
                status = folder.stat()
                assert stat.S_IMODE(status.st_mode) == 0o700
                assert status.st_uid == os.geteuid()

    def test_several_come_up_side_by_side(self) -> None:
        servers = [Memcached() for _ in range(3)]
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        assert len({server.address for server in servers}) == 3
        for server in servers:
            server.stop()

    def test_32_started_at_once_have_32_ports(self) -> None:
        servers = [Memcached() for _ in range(32)]
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(Memcached.start, servers))
            assert len({server.port for server in servers}) == 32
            assert len({server.stats()["pid"] for server in servers}) == 32
            list(pool.map(Memcached.stop, servers))


class TestSandbox:
    def test_one_server_for_each_address(self) -> None:
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

    def test_all_or_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Servers that came up are ended when another one did not."""
        once = script(
            tmp_path / "once", f'#!/bin/sh\nmkdir {tmp_path}/lock && exec memcached "$@"; exit 4\n'
        )
        with Sandbox(binary=once) as box:
            with pytest.raises(StartError, match="exit code 4"):
                box.resolve(["a:1", "b:1", "c:1"])
            assert box.servers == []

    def test_control_directory_is_removed_with_a_dropped_sandbox(self, run_folder: Path) -> None:
        box = Sandbox()
        box.resolve(["a:1"])
        assert box.control_directory.name in os.listdir(next(run_folder.iterdir()))
        del box
        gc.collect()
        assert list(run_folder.iterdir()) == []

    def test_control_directory_is_not_removed_by_a_fork(self, python: Run) -> None:
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

    def test_servers_are_launched_together_or_not_at_all(self, tmp_path: Path) -> None:
        box = Sandbox(binary=script(tmp_path / "once", '#!/bin/sh\nexec memcached "$@"\n'))
        box.launch(1)[0].wait()
        (tmp_path / "once").chmod(0o644)
        children = len(psutil.Process().children())
        with pytest.raises(BinaryError) as error:
            box.launch(2)
        assert len(psutil.Process().children()) == children
        assert error.value
        box.stop()

    def test_bad_options_are_told_before_anything_is_asked_for(self) -> None:
        with pytest.raises(OptionError):
            Sandbox(memory_mb=0)


class TestEnding:
    def test_stop_ends_it_at_once(self) -> None:
        server = Memcached()
        server.start()
        pid = server.pid
        server.stop()
        assert not psutil.pid_exists(pid)

    def test_stop_twice_and_start_again(self) -> None:
        server = Memcached()
        server.stop()
        for _ in range(2):
            server.start()
            server.flush()
            server.stop()
            server.stop()

    def test_start_twice(self) -> None:
        with Memcached() as server:
            with pytest.raises(ServerError, match="started already"):
                server.start()
            server.flush()

    def test_after_the_end_everything_says_so(self) -> None:
        with Memcached() as server:
            pass
        for use in (
            lambda: server.address,
            lambda: server.port,
            lambda: server.pid,
            server.client,
            server.flush,
            server.stats,
        ):
            with pytest.raises(ServerError, match="does not run"):
                use()
        assert repr(server) == "<Memcached not running>"

    def test_an_error_in_the_block_ends_it(self) -> None:
        server = Memcached()
        with pytest.raises(KeyboardInterrupt), server:  # noqa: PT012
            pid = server.pid
            raise KeyboardInterrupt
        assert not psutil.pid_exists(pid)

    def test_a_dropped_server_is_ended(self) -> None:
        server = Memcached()
        server.start()
        pid = server.pid
        del server
        gc.collect()
        assert not psutil.pid_exists(pid)

    def test_the_thread_that_started_it_may_end(self) -> None:
        server = Memcached()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        server.flush()
        server.stop()

    def test_children_that_are_not_waited_for(self, python: Run) -> None:
        """With SIGCHLD ignored the kernel waits for children, and we cannot."""
        result = python(
            "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            "from sandbox import Memcached\n"
            "with Memcached() as server: server.flush()\n"
            "print(server)"
        )
        assert (result.stdout, result.stderr) == ("<Memcached not running>\n", "")

    def test_closed_standard_streams(self, python: Run) -> None:
        result = python(
            "import os, sys\n"
            "from sandbox import Memcached\n"
            "saved = os.dup(1)\n"
            "os.closerange(0, 3)\n"
            "with Memcached() as server: server.flush()\n"
            "os.write(saved, b'well')"
        )
        assert result.stdout == "well"


class TestDeath:
    def test_the_next_use_tells_how_it_died(self) -> None:
        with Memcached() as server:
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(ServerError, match=r"was killed by signal 9 \(Killed\)"):
                server.flush()
            assert server.death() == "was killed by signal 9 (Killed)"

    def test_its_end_is_an_event(self, python: Run) -> None:
        """It is our child: whoever waits for SIGCHLD is woken, and is told why."""
        result = python(
            "import os, signal\n"
            "from sandbox import Memcached\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})\n"
            "with Memcached() as server:\n"
            "    assert server.exit_reason() is None\n"
            "    os.kill(server.pid, signal.SIGKILL)\n"
            "    signal.sigwait({signal.SIGCHLD})\n"
            "    print(server.exit_reason())\n"
        )
        assert result.stdout == "was killed by signal 9 (Killed)\n", result.stderr

    def test_one_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sandbox.server.ANSWER_TIMEOUT", 0.1)
        with Memcached() as server:
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(ServerError, match="does not answer: timed out"):
                server.flush()

    def test_a_wrong_program(self, tmp_path: Path) -> None:
        """It listens where it says, but what it talks is not memcached's language."""
        chatter = script(
            tmp_path / "chatter",
            f"#!{sys.executable}\n"
            "import os, socket\n"
            "listener = socket.create_server(('127.0.0.1', 0))\n"
            "with open(os.environ['MEMCACHED_PORT_FILENAME'] + '.lck', 'a') as news:\n"
            "    print('TCP INET:', listener.getsockname()[1], file=news)\n"
            "for answer in (b'who are you?\\r\\n', b'y' * 2_000_000, b''):\n"
            "    connection = listener.accept()[0]\n"
            "    connection.recv(100)\n"
            "    try: connection.sendall(answer)\n"
            "    except OSError: pass\n"
            "    connection.close()\n",
        )
        with Memcached(binary=chatter) as server:
            with pytest.raises(ServerError, match="answer: answered 'who are you.' to 'flush_all'"):
                server.flush()
            with pytest.raises(ServerError, match=r"does not answer: sent no line but b'yyy"):
                server.stats()
            with pytest.raises(ServerError, match="closed the connection|ended with exit code 0"):
                server.stats()


class TestStartErrors:
    def test_no_memcached_anywhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        script(tmp_path / "apk", "")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("sandbox.server.binary.USUAL_FOLDERS", ())
        with pytest.raises(BinaryError, match="not found on PATH.*install it with .*apk add memc"):
            Memcached().start()

    def test_no_package_manager_either(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("sandbox.server.binary.USUAL_FOLDERS", ())
        with pytest.raises(BinaryError, match="install it with 'your system's package manager'"):
            Memcached().start()

    def test_usual_folders_beside_path(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with Memcached() as server:
            assert server.command[0].endswith("/memcached")

    def test_binary_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        wrapper = script(tmp_path / "wrapper", '#!/bin/sh\nexec memcached "$@"\n')
        monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", str(wrapper))
        with Memcached() as server:
            assert server.command[0] == str(wrapper)
            server.flush()

    def test_binary_by_name(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        script(tmp_path / "mc", '#!/bin/sh\nexec memcached "$@"\n')
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        with Memcached(binary="mc") as server:
            assert server.command[0] == str(tmp_path / "mc")
        with pytest.raises(BinaryError, match="'no-such-memcached' is not on PATH"):
            Memcached(binary="no-such-memcached").start()

    def test_binary_of_the_environment_is_named_in_errors(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MEMCACHED_SANDBOX_BINARY", "/nope")
        said = "^MEMCACHED_SANDBOX_BINARY=/nope: the memcached binary '/nope' does not exist"
        with pytest.raises(BinaryError, match=said):
            Memcached().start()

    def test_missing_and_not_executable(self, tmp_path: Path) -> None:
        with pytest.raises(BinaryError, match="does not exist: correct the path"):
            Memcached(binary=tmp_path / "nothing").start()
        (tmp_path / "text").write_text("text")
        with pytest.raises(BinaryError, match="is not an executable file.*chmod"):
            Memcached(binary=tmp_path / "text").start()
        with pytest.raises(BinaryError, match="is not an executable file"):
            Memcached(binary=tmp_path).start()

    def test_not_a_program(self, tmp_path: Path) -> None:
        with pytest.raises(BinaryError, match="cannot be executed: Exec format error"):
            Memcached(binary=script(tmp_path / "garbage", "\x7fELF garbage")).start()

    def test_ends_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(
            StartError, match="ended with exit code 1, saying: Illegal suboption .* before it was"
        ):
            Memcached(args=["-o", "nonsense"]).start()
        with pytest.raises(StartError, match="ended with exit code 0 before it was ready"):
            Memcached(binary="true").start()
        killed = script(tmp_path / "killed", "#!/bin/sh\nkill -SEGV $$\n")
        with pytest.raises(StartError, match=r"was killed by signal 11 \(Segmentation fault\)"):
            Memcached(binary=killed).start()

    def test_last_words_are_the_last(self, tmp_path: Path) -> None:
        talker = script(
            tmp_path / "talker", "#!/bin/sh\nseq 100000\necho 'this is\nthe end' >&2; exit 3\n"
        )
        with pytest.raises(
            StartError, match="exit code 3, saying: .*100000 this is the end"
        ) as info:
            Memcached(binary=talker).start()
        assert len(str(info.value)) < 800

    def test_never_answers(self, tmp_path: Path) -> None:
        sleeper = script(tmp_path / "sleeper", "#!/bin/sh\nexec sleep 100\n")
        begin = time.monotonic()
        server = Memcached(binary=sleeper, start_timeout=0.3)
        server.launch()
        pid = server.pid
        with pytest.raises(StartError, match="not ready within its start_timeout and was killed"):
            server.wait()
        assert time.monotonic() - begin >= 0.3
        assert not psutil.pid_exists(pid)

    def test_a_script_that_leaves_memcached_to_a_child(self, tmp_path: Path) -> None:
        parent = script(
            tmp_path / "parent", f'#!/bin/sh\nmemcached "$@" & echo $! >{tmp_path}/pid; wait\n'
        )
        with pytest.raises(StartError, match="another process.*let it end with 'exec memcached"):
            Memcached(binary=parent).start()
        wait_until_gone(pid_in(tmp_path / "pid"))

    def test_a_liar_that_names_the_port_of_another(
        self, main_memcached: MainMemcached, tmp_path: Path
    ) -> None:
        port = main_memcached.port
        liar = script(
            tmp_path / "liar",
            f'#!/bin/sh\necho "TCP INET: {port}" >>"$MEMCACHED_PORT_FILENAME.lck"\n'
            "exec sleep 100\n",
        )
        with pytest.raises(StartError, match="another process than the one that was started"):
            Memcached(binary=liar).start()

    def test_a_program_that_leaves_files_and_folders(
        self, run_folder: Path, tmp_path: Path
    ) -> None:
        messy = script(
            tmp_path / "messy",
            '#!/bin/sh\ncd "$(dirname "$MEMCACHED_PORT_FILENAME")"\n'
            "mkdir folder && touch file folder/file && ln -s / link\nexit 3\n",
        )
        with pytest.raises(StartError, match="ended with exit code 3"):
            Memcached(binary=messy).start()
        assert list(run_folder.iterdir()) == []

    def test_garbage_for_a_port(self, tmp_path: Path) -> None:
        liar = script(
            tmp_path / "liar",
            '#!/bin/sh\necho "TCP" >>"$MEMCACHED_PORT_FILENAME.lck"\nexec sleep 100\n',
        )
        with pytest.raises(StartError, match="does not answer as a memcached does"):
            Memcached(binary=liar).start()

    @pytest.mark.parametrize("unix_socket", [False, True])
    def test_where_the_kernel_does_not_tell_the_server_is_asked(
        self, monkeypatch: pytest.MonkeyPatch, unix_socket: bool
    ) -> None:
        def refused(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr("sandbox.system.processes._tcp_listener_inode", refused)
        monkeypatch.setattr("sandbox.system.processes._unix_listener_pid", refused)
        with Memcached(unix_socket=unix_socket) as server:
            server.flush()

    @pytest.mark.parametrize("unix_socket", [False, True])
    def test_without_what_only_linux_has(
        self, monkeypatch: pytest.MonkeyPatch, unix_socket: bool
    ) -> None:
        monkeypatch.setattr("sys.platform", "darwin")
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            os.chmod(folder, 0o755)
            monkeypatch.setenv("TMPDIR", folder)
            with Memcached(unix_socket=unix_socket) as server:
                server.flush()
            assert os.listdir(folder) == []

    def test_run_directory_cannot_be_made(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("os.mkfifo", _not_permitted)
        with pytest.raises(
            SandboxError, match="be made in .*: Operation not permitted; point TMPDIR to a folder"
        ):
            Memcached().start()

    def test_root_on_a_system_without_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("pwd.getpwnam", lambda name: {}[name])
        with pytest.raises(StartError, match="must not run as root, and this system has no user"):
            Memcached().start()


def _not_permitted(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_items() -> None:
    with Memcached() as server, closing(server.client()) as client:
        assert server.items() == []
        before = time.time()
        client.set("forever", b"x" * 1000)
        client.set("per%cent", "", expire=100)
        client.set("gone", "", expire=-1, noreply=False)
        forever, passing = sorted(server.items())
        assert (forever.key, forever.expires) == ("forever", None)
        assert 1000 < forever.size < 1100
        assert passing.key == "per%cent"
        assert before + 98 < passing.expires < time.time() + 102
        server.flush()
        assert server.items() == []


def test_many_items() -> None:
    with Memcached() as server, closing(server.client()) as client:
        client.set_many({f"key{number}": "value" for number in range(5000)}, noreply=False)
        assert len({item.key for item in server.items()}) == 5000


def test_items_are_listed_once_each() -> None:
    """One that memcached moves from list to list meanwhile, too."""
    with Memcached() as server, closing(server.client()) as client:
        for _ in range(3000):
            client.set("key", "value", noreply=False)
            assert [item.key for item in server.items()] == ["key"]


def test_items_while_the_crawler_is_busy() -> None:
    """memcached makes one list at a time, and refuses to make another meanwhile."""
    with Memcached() as server, closing(server.client()) as client:
        client.set_many({f"key{number}": "" for number in range(5000)}, noreply=False)
        with ThreadPoolExecutor(2) as pool:
            lengths = list(pool.map(lambda _: len(server.items()), range(10)))
        assert lengths == [5000] * 10


@pytest.mark.parametrize(
    ("answer", "keys"),
    [
        (b"OK\r\nkey=one exp=-1 size=50\nEND\r\n", ["one"]),  # since 1.6.43
        (b"key=one exp=-1 size=50\nkey=two exp=-1 size=50\nEND\r\n", ["one", "two"]),
        (b"END\r\n", []),
    ],
)
def test_items_of_other_versions(answer: bytes, keys: list[str]) -> None:
    with answering(answer) as address:
        assert [item.key for item in Server(address).items()] == keys


@pytest.mark.parametrize("answer", [b"BUSY currently processing\r\n", b"ERROR\r\n"])
def test_items_that_are_never_told(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr("_memcached_sandbox.protocol.BUSY_LIMIT", 3)
    message = f"answered '{answer.decode().strip()}' to 'lru_crawler metadump all'"
    with answering(answer) as address, pytest.raises(ServerError, match=message):
        Server(address).items()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Give one client the same answer to whatever it asks, as long as it asks."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(1000):
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        listener.settimeout(10)
        served = pool.submit(serve)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        served.result()


def test_a_server_that_somebody_else_runs() -> None:
    with Memcached() as server:
        other = Server(server.address)
        with closing(other.client()) as client:
            client.set("key", "value", noreply=False)
        assert [item.key for item in other.items()] == ["key"]
        other.flush()
        assert server.items() == []
        assert other.stats() != {}
        assert repr(other) == f"<Server {server.address}>"
    for ask in (other.stats, other.items, other.flush, other.client):
        with pytest.raises(ServerError, match=f"{other.address} does not answer: .*refused"):
            ask()


def test_a_name_that_the_package_does_not_have() -> None:
    import sandbox

    with pytest.raises(AttributeError, match="module 'sandbox' has no attribute 'Client'"):
        sandbox.Client  # noqa: B018
