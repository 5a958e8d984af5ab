"""Measures what the project promises: `python -m tests.benchmarks [NAME...]`.

Each benchmark does two things in turn, A B A B ..., and prints the medians with their ratio, or the
median of their differences, beside the promised bound. The exit status is 1 when a bound is
exceeded.
"""

from __future__ import annotations

import compileall
import io
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import sandbox
from sandbox import Memcached, Sandbox
from sandbox.inject import emptying, flushing, guard, protocol
from sandbox.run.control import Control
from sandbox.run.environment import Injection, injection_variables

from ..helpers.installs import install_by_hand

Action = Callable[[], object]

ROUNDS = 200


class Benchmark(NamedTuple):
    """Limits the time of ``measured``: so many times that of ``base``, or so many ms more."""

    name: str
    measured: Action
    base: Action
    times: float | None = None
    more_ms: float | None = None


def start_and_stop() -> None:
    server = Memcached()
    server.start()
    server.stop()


def start_through_the_loader(data: str) -> Benchmark:
    """Compares an installed memcached that has libraries with the same one of the system."""
    install_by_hand(Path(data, "memcached-sandbox"), "trixie", with_libraries=True)
    os.environ["XDG_DATA_HOME"] = data

    def start(binary: str) -> Action:
        return lambda: Memcached(binary=binary).start()

    return Benchmark(
        "start, of what sandbox install brings, of the system",
        start("trixie"),
        start("memcached"),
        more_ms=1,
    )


class BareMemcached:
    """A memcached spawned with the same flags, polled for its port file and killed."""

    def __init__(self) -> None:
        with Memcached() as server:
            self.command = server.command
        self.folder = tempfile.mkdtemp()
        os.chmod(self.folder, 0o777)  # memcached may have to write as another user
        self.port_file = os.path.join(self.folder, "port")
        self.env = {**os.environ, "MEMCACHED_PORT_FILENAME": self.port_file}

    def __call__(self) -> None:
        process = subprocess.Popen(
            self.command,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not os.path.exists(self.port_file):
            time.sleep(0.0002)
        process.kill()
        process.wait()
        os.unlink(self.port_file)


def run(*command: str, **env: str) -> Action:
    return lambda: subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    )


def example(*options: str) -> Action:
    """Returns what runs the tests of the example project under `sandbox exec`."""
    bookshop = Path(__file__).parents[2] / "examples" / "bookshop"
    command = (sys.executable, str(bookshop / "manage.py"), "test", "books")
    return run(str(Path(sys.executable).parent / "sandbox"), "exec", *options, "--", *command)


def hundred_tests() -> None:
    for _ in range(100):
        with flushing.flushed_after_test():
            pass


def connects(audited: bool) -> Action:
    """Go through 1,000 connect() calls as the interpreter does, up to the system call."""
    arguments = (socket.socket(), ("127.0.0.1", 5))

    def connect() -> None:
        for _ in range(1000):
            if audited:
                sys.audit("socket.connect", *arguments)

    return connect


SETTINGS = """
from django.conf import settings
settings.configure(CACHES={{"default": {{"BACKEND": "{backend}", "LOCATION": "main:11211"}}}})
settings.CACHES
"""

# What `_memcached_sandbox.run` has to do, and no more.
ROUND_TRIP = """
import json, os, socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["MEMCACHED_SANDBOX_CONTROL"])
    connection.sendall(json.dumps({"resolve": ["main:11211"], "worker": ""}).encode() + b"\\n")
    with connection.makefile("rb") as lines:
        json.loads(lines.readline())
"""


def settings_and_round_trip(injected: dict[str, str], folder: str) -> Iterator[Benchmark]:
    with Sandbox() as box:
        control = Control(box, os.path.join(folder, "control"))
        env = {**injected, "MEMCACHED_SANDBOX_CONTROL": control.path}
        box.resolve(["main:11211"])
        measured = SETTINGS.format(backend="django.core.cache.backends.memcached.PyMemcacheCache")
        base = SETTINGS.format(backend="django.core.cache.backends.dummy.DummyCache")
        yield Benchmark(
            "settings with a memcached, with none and one bare round trip",
            run(sys.executable, "-c", measured, **env),
            run(sys.executable, "-c", base + ROUND_TRIP, **env),
            times=1.1,
        )
        control.stop()


def pytest_that_is_on(folder: str) -> Benchmark:
    """A pytest of one test that uses no cache, with the plugin on and off."""
    (Path(folder) / "test_nothing.py").write_text("def test(): pass\n")
    off = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:django",
        folder,
    )
    return Benchmark(
        "pytest with the plugin on, off", run(*off, "--memcached-sandbox"), run(*off), times=1.05
    )


def pytest_that_is_off(folder: str) -> Iterator[Benchmark]:
    """A pytest of one test, with the plugin and with an empty one.

    Within this process: the noise of a whole one is many times what there is to be seen.
    """
    import pytest  # not before the other figures are taken

    test = Path(folder) / "test_nothing.py"
    test.write_text("def test(): pass\n")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

    def pytest_with(plugin: ModuleType) -> None:
        with redirect_stdout(io.StringIO()):
            pytest.main(["-q", "-p", "no:cacheprovider", str(test)], plugins=[plugin])

    def measured() -> None:
        sys.modules.pop("sandbox.pytest", None)
        pytest_with(import_module("sandbox.pytest"))

    yield Benchmark(
        "pytest with the plugin off, with an empty one",
        measured,
        lambda: pytest_with(ModuleType("empty")),
        more_ms=1,
    )


# Connects 100 times for each line that it reads, and answers when it has.
CONNECTS = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    for line in sys.stdin:
        for _ in range(100):
            with socket.socket() as client:
                client.connect(server.getsockname())
            server.accept()[0].close()
        print(flush=True)
"""


def commands_under_the_kernel_guard() -> Iterator[Benchmark]:
    sandbox = str(Path(sys.executable).parent / "sandbox")
    quiet = (sandbox, "exec", "--quiet", "--no-inject")
    with_guard, without = (*quiet, "--kernel-guard", "--"), (*quiet, "--no-kernel-guard", "--")
    true = shutil.which("true") or ""
    yield Benchmark(
        "sandbox exec -- true with the kernel guard, without",
        run(*with_guard, true),
        run(*without, true),
        more_ms=8,
    )

    def hundred_connects(*options: str) -> Action:
        process = stack.enter_context(
            subprocess.Popen(
                [*options, sys.executable, "-c", CONNECTS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdin.close)
        lines, answers = process.stdin, process.stdout
        return lambda: (lines.write(b"\n"), answers.readline())

    with ExitStack() as stack:
        yield Benchmark(
            "100 connects with the kernel guard, without",
            hundred_connects(*with_guard),
            hundred_connects(*without),
            more_ms=10,
        )


def benchmarks() -> Iterator[Benchmark]:
    compileall.compile_dir(str(Path(sandbox.__file__).parent), quiet=1)  # as pip does
    yield Benchmark("start and stop, bare memcached", start_and_stop, BareMemcached(), times=1.15)
    with tempfile.TemporaryDirectory() as data:
        yield start_through_the_loader(data)
    yield Benchmark(
        "sandbox exec -- true, python -c 'import click'",
        run(str(Path(sys.executable).parent / "sandbox"), "exec", "--", shutil.which("true") or ""),
        run(sys.executable, "-c", "import click"),
        times=1.5,
    )
    injected = injection_variables(os.environ, Injection([], "test", False, ["127.0.0.1:11211"]))
    yield Benchmark(
        "a Python that never imports Django, without the sandbox",
        run(sys.executable, "-c", "pass", **injected),
        run(sys.executable, "-c", "pass"),
        times=1.06,
    )
    with tempfile.TemporaryDirectory() as folder:
        yield from settings_and_round_trip(injected, folder)
        yield pytest_that_is_on(folder)
        yield from pytest_that_is_off(folder)
    with (
        Memcached() as server,
        protocol.Connection.to(server.address, 5) as connection,
    ):
        os.environ["MEMCACHED_SANDBOX_ADDRESS"] = server.address

        def hundred_flushes() -> None:
            for _ in range(100):
                connection.send(b"flush_all\r\n")
                connection.await_ok("flush_all")

        # From 1.6.25 on, the flush is proved by the counters that memcached has afterwards.
        connection.stats()
        times = 1.6 if connection.version < emptying.WALKS_LISTS else 2.7
        yield Benchmark(
            "100 tests, 100 bare flush_all", hundred_tests, hundred_flushes, times=times
        )
        yield from uses_of(server)
    yield Benchmark("the example with --leaks, without", example("--leaks"), example(), times=1.5)
    guard.guard("127.0.0.1:11211")
    yield Benchmark(
        "1,000 connects with the guard, none", connects(True), connects(False), more_ms=2
    )
    yield from commands_under_the_kernel_guard()


def uses_of(server: Memcached) -> Iterator[Benchmark]:
    client = server.client()

    def thousand_gets() -> None:
        for _ in range(1000):
            client.get("key")

    def traced_gets() -> None:
        with server.trace():
            thousand_gets()

    def counted() -> None:
        with server.counting():
            pass

    def asked_twice() -> None:
        server.stats()
        server.stats()

    def down() -> None:
        with server.down():
            pass

    def hung() -> None:
        with server.hung():
            pass

    yield Benchmark("down and back, start and stop", down, start_and_stop, times=2.5)
    yield Benchmark("hung and back, nothing", hung, lambda: None, more_ms=5)
    yield Benchmark("1,000 gets traced, plain", traced_gets, thousand_gets, times=3)
    yield Benchmark("counting nothing, stats twice", counted, asked_twice, more_ms=0.5)
    client.close()


def milliseconds(action: Action) -> float:
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def main(names: list[str]) -> int:
    exceeded = 0
    for name, measured, base, times, more_ms in benchmarks():
        if names and not any(wanted in name for wanted in names):
            continue
        pairs = [(milliseconds(measured), milliseconds(base)) for _ in range(ROUNDS)]
        our_ms, their_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
        if times is not None:
            figure, bound = our_ms / their_ms, f"at most {times} times"
            too_much = figure > times
        else:
            # Within each pair: the machine's speed changes meanwhile by more than that.
            figure = statistics.median(measured - base for measured, base in pairs)
            bound = f"at most {more_ms} ms more"
            too_much = figure > (more_ms or 0)
        exceeded += too_much
        print(
            f"{name}: {our_ms:.2f} ms, {their_ms:.2f} ms: {figure:.2f} ({bound})"
            + ("  EXCEEDED" if too_much else "")
        )
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
