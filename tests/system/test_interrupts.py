"""Ctrl-C at any line: nothing is left, and no signal is lost while handlers are deferred."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import psutil
import pytest

import sandbox
from sandbox import Memcached, Sandbox
from sandbox.system import deferred

PACKAGE = str(Path(sandbox.__file__).parent)


class Tracer:
    """Sends SIGINT to this process before the n-th line that is executed in some files."""

    def __init__(self, files: str, number: int) -> None:
        self.files = files
        self.left = number
        self.line = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> Tracer | None:
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self


@contextmanager
def interrupted_at(files: str, number: int) -> Iterator[Tracer]:
    tracer, outer = Tracer(files, number), sys.gettrace()
    sys.settrace(tracer)
    try:
        yield tracer
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(outer)


def resources() -> tuple[int, bool]:
    """Return how many descriptors this process has, and whether it has a child."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return psutil.Process().num_fds(), False
    return psutil.Process().num_fds(), True


def start_and_stop() -> None:
    server = Memcached()
    server.start()
    server.stop()


def in_a_with_statement() -> None:
    with Memcached(unix_socket=True):
        pass


def resolved() -> None:
    with Sandbox() as box:
        box.resolve(["a:1", "b:1"])
        assert os.path.isdir(box.control_directory.path)


@pytest.mark.parametrize(
    ("action", "files"),
    [
        (start_and_stop, PACKAGE),
        (in_a_with_statement, f"{PACKAGE}/server/memcached.py"),
        (resolved, f"{PACKAGE}/run/sandbox.py"),
    ],
)
def test_interrupt_at_any_line_leaves_nothing(
    action: Callable[[], None], files: str, run_folder: Path
) -> None:
    action()  # imports now what is imported on first use
    gc.collect()  # Other tests may have left descriptors in cycles.
    before = resources()
    handler = signal.getsignal(signal.SIGINT)
    assert before[1] is False
    gc.freeze()  # hundreds of collections pass over the objects that exist now
    number = lines = 0
    while lines == number:
        number += 1
        with interrupted_at(files, number) as tracer:
            action()
        gc.collect()
        assert resources() == before, tracer.line
        assert list(run_folder.iterdir()) == [], tracer.line
        assert signal.getsignal(signal.SIGINT) is handler, tracer.line
        lines += tracer.left == 0
    gc.unfreeze()
    assert lines > 20


def test_interrupt_at_any_line_of_a_trace_ends_it() -> None:
    def traced() -> None:
        with server.trace():
            pass

    with Memcached() as server:
        traced()
        with closing(server.client()) as client:
            before = resources()
            lines = number = 0
            gc.freeze()  # what is there already takes long to look through
            while lines == number:
                number += 1
                with interrupted_at(f"{PACKAGE}/server/trace.py", number) as tracer:
                    traced()
                gc.collect()
                client.get("key")  # is not logged
                assert os.path.getsize(server._log_path()) == 0, tracer.line
                assert resources() == before, tracer.line
                lines += bool(tracer.line)  # It may be handled later.
            gc.unfreeze()
    assert lines > 50


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that were handled; the handler of SIGUSR1 raises InterruptedError."""
    numbers: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        numbers.append(number)
        if number == signal.SIGUSR1:
            raise InterruptedError

    before = {n: signal.signal(n, handle) for n in (signal.SIGUSR1, signal.SIGUSR2)}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_are_called_when_the_block_has_ended(received: list[int]) -> None:
    """Each handler is called, even if another handler raises an exception."""
    steps: list[list[int]] = []
    with pytest.raises(InterruptedError), deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGUSR1)
        steps.append(list(received))
        signal.raise_signal(signal.SIGUSR2)
        steps.append(list(received))
    assert steps == [[], []]
    assert sorted(received) == [signal.SIGUSR1, signal.SIGUSR2]


def test_handler_of_asyncio_is_called_once() -> None:
    calls: list[int] = []

    async def wait() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, calls.append, 1)
        with deferred():
            signal.raise_signal(signal.SIGUSR1)
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(wait())
    assert calls == [1]


def test_handlers_are_called_once_for_nested_blocks(received: list[int]) -> None:
    with deferred():
        with deferred():
            signal.raise_signal(signal.SIGUSR2)
        assert received == []
    assert received == [signal.SIGUSR2]


def test_interrupt_at_any_line_of_the_deferral_is_not_lost(received: list[int]) -> None:
    """Nor does the interrupt keep a handler from being restored."""
    signals = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    handlers = [signal.getsignal(number) for number in signals]
    number = interrupts = 0
    while interrupts == number:
        number += 1
        with interrupted_at(f"{PACKAGE}/system/__init__.py", number) as tracer:
            try:
                with deferred():
                    pass
            except KeyboardInterrupt:
                interrupts += 1
        assert [signal.getsignal(number) for number in signals] == handlers, tracer.line
    assert tracer.left > 0  # there was no such line any more
    assert interrupts > 20


def test_deferral_in_another_thread_does_nothing() -> None:
    """Only the main thread sets handlers and runs them."""
    ended = threading.Event()

    def work() -> None:
        with deferred():
            pass
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended.is_set()
