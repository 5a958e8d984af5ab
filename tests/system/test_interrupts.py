"""Ctrl-C comes at any line: whatever it interrupts, nothing is left."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil
import pytest

import sandbox
from sandbox import Memcached, Sandbox
from sandbox.system.interrupts import close, close_all, store, store_all

PACKAGE = str(Path(sandbox.__file__).parent)


class Tracer:
    """Raises KeyboardInterrupt before the n-th line, or opcode, that is executed in some files."""

    def __init__(self, files: str, number: int, unit: Literal["line", "opcode"]) -> None:
        self.files = files
        self.left = number
        self.unit = unit
        self.line = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> Tracer | None:
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        frame.f_trace_opcodes = self.unit == "opcode"
        if event == self.unit:
            self.left -= 1
            if self.left == 0:
                self.line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self


@contextmanager
def interrupted_at(
    files: str, number: int, unit: Literal["line", "opcode"] = "line"
) -> Iterator[Tracer]:
    tracer, outer = Tracer(files, number, unit), sys.gettrace()
    # Python 3.12 traces opcodes only if some frame wants that when settrace() is called.
    sys._getframe().f_trace_opcodes = unit == "opcode"
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


def stand_ins() -> None:
    with Sandbox() as box:
        box.stand_in(["a:1", "b:1"])


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # what is left open then is closed
@pytest.mark.parametrize(
    ("action", "files"),
    [
        (start_and_stop, PACKAGE),
        (in_a_with_statement, f"{PACKAGE}/server/memcached.py"),
        (stand_ins, f"{PACKAGE}/run/sandbox.py"),
    ],
)
def test_interrupt_at_any_line(action: Callable[[], None], files: str, run_folder: Path) -> None:
    action()  # what is imported on first use is imported now
    before = resources()
    assert before[1] is False
    gc.collect()
    gc.freeze()  # what there is by now need not be looked at hundreds of times
    number = lines = 0
    while lines == number:
        number += 1
        with interrupted_at(files, number) as tracer:
            action()
        gc.collect()
        assert resources() == before, tracer.line
        assert list(run_folder.iterdir()) == [], tracer.line
        lines += tracer.left == 0
    gc.unfreeze()
    assert lines > 20


def test_interrupt_at_any_opcode() -> None:
    """What is open is in the list, and what is in the list is open."""
    descriptors: list[int] = []

    def use() -> None:
        store_all(descriptors, os.pipe)
        store(descriptors, os.dup, descriptors[0])
        close(descriptors, 1)
        close_all(descriptors)

    before = psutil.Process().num_fds()
    number = opcodes = 0
    while opcodes == number:
        number += 1
        with interrupted_at(f"{PACKAGE}/system/interrupts.py", number, "opcode") as tracer:
            use()
        assert psutil.Process().num_fds() == before + len(descriptors), tracer.line
        while descriptors:
            os.close(descriptors.pop())
        opcodes += tracer.left == 0
    assert opcodes > 40
