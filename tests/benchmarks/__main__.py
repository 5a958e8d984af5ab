"""Measures what the project promises: `python -m tests.benchmarks [NAME...]`.

Each benchmark compares two things in turn, A B A B ..., and prints the ratio of their medians
beside the promised bound. The exit status is 1 when a bound is exceeded.
"""

from __future__ import annotations

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import sandbox
from sandbox import Memcached

ROUNDS = 200


class Benchmark(NamedTuple):
    """``ours`` may take at most ``bound`` times as long as ``theirs``."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    bound: float


def start_and_stop() -> None:
    server = Memcached()
    server.start()
    server.stop()


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


def run(*command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def benchmarks() -> list[Benchmark]:
    compileall.compile_dir(str(Path(sandbox.__file__).parent), quiet=1)  # as pip does
    folder = Path(sys.executable).parent
    return [
        Benchmark("start and stop / bare memcached", start_and_stop, BareMemcached(), 1.3),
        Benchmark(
            "sandbox exec -- true / python -c 'import click'",
            run(str(folder / "sandbox"), "exec", "--", shutil.which("true") or "true"),
            run(sys.executable, "-c", "import click"),
            1.6,
        ),
    ]


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main(names: list[str]) -> int:
    exceeded = 0
    for name, ours, theirs, bound in benchmarks():
        if names and not any(wanted in name for wanted in names):
            continue
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
        our_median, their_median = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = our_median / their_median
        exceeded += ratio > bound
        print(
            f"{name}: {our_median * 1000:.2f} ms / {their_median * 1000:.2f} ms = {ratio:.2f} "
            f"(at most {bound}){'  EXCEEDED' if ratio > bound else ''}"
        )
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
