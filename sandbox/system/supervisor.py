"""Asks a policy about each connect(2) of a command and of all that it starts.

The rest of this process stays without the filter of `seccomp`. A caller that is led elsewhere finds
the new address in place of its own, in its own memory, and its own call goes on: all that follows,
such as a time-out or EINPROGRESS, is the kernel's. Not seen are io_uring, and sockets that were
connected before. Another thread of the caller can change the address after it was looked at.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import posix
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from . import seccomp
from .connects import LIMITS, Connect

if TYPE_CHECKING:
    from typing import Protocol

    # 0 for "go on", or an error number for the caller.
    Answer = int

    # The same, or what finds the answer in a thread of its own, since that takes long.
    Decision = Answer | Callable[[], Answer]

    class Policy(Protocol):
        """Decides about connects."""

        def decide(self, connect: Connect) -> Decision:
            """Returns the answer."""

        def report_unseen(self, connect: Connect) -> None:
            """Records that a caller may not be looked at, and goes on."""

        def report_failure(self, connect: Connect, error: Exception) -> None:
            """Records that a caller was refused, since the decision has failed."""


T = TypeVar("T")

# The errors by which /proc keeps a process from being looked at.
HIDDEN = PermissionError, FileNotFoundError, ProcessLookupError

# Seconds between attempts to look at a caller after such an error, and how many there are.
RETRY_PAUSE = 0.01
MOST_RETRIES = 100

# What a refused caller gets.
REFUSED = errno.ECONNREFUSED


class Supervisor:
    """Starts a command, and answers for its connects as a policy decides.

    Every caller gets an answer. What cannot be decided because of an error is refused. A process
    that may not be looked at, such as a setuid program's, goes on.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._listener = -1
        self._stopped = -1
        self._installed = threading.Event()
        self._answers: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def spawn(self, start: Callable[[], int]) -> int:
        """Starts the command in a thread with the filter, and returns its pid.

        `stop` must follow, also after an error.

        :param start: starts the command, and returns its pid.
        :raises seccomp.UnavailableError: there is no filter to be had; nothing was started.
        :raises OSError: the command cannot be started.
        """
        seccomp.this_machine()
        self._stopped = os.eventfd(0)
        outcome: list[int | Exception] = []

        def in_thread() -> None:
            try:
                try:
                    self._listener = seccomp.install()
                finally:
                    self._installed.set()
                outcome.append(start())
            except Exception as error:  # noqa: BLE001 - it is raised below
                outcome.append(error)

        try:
            self._thread.start()
            thread = threading.Thread(target=in_thread)
            thread.start()
        except RuntimeError as error:
            self._installed.set()
            raise seccomp.UnavailableError(str(error)) from None
        thread.join()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def stop(self) -> None:
        """Stops between two questions, and leaves the rest to a process that says "go on" to all.

        That is there only if processes of the command are left, and ends with the last of them. It
        holds no terminal, no pipe and no working directory.

        :raises OSError: it cannot be started, and those processes cannot connect any more.
        """
        if self._stopped < 0:
            return
        os.eventfd_write(self._stopped, 1)
        if self._thread.ident is not None:
            self._thread.join()
        for thread in [*self._answers]:
            thread.join()
        try:
            if self._listener >= 0:
                self._hand_over()
        finally:
            for descriptor in {self._listener, self._stopped} - {-1}:
                posix.close(descriptor)
            self._listener = self._stopped = -1

    def _hand_over(self) -> None:
        poll = select.poll()  # noqa: TID251 - nothing has patched the process of a command
        poll.register(self._listener, 0)
        if poll.poll(0):
            return  # No process of the command is left.
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        listener = 3
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", seccomp.__file__, str(listener)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, self._listener, listener), *null],
            setsigmask=signal.valid_signals(),
        )

    def _serve(self) -> None:
        self._installed.wait()
        if self._listener < 0:
            return
        with suppress(OSError):  # Linux 6.6: the caller hands its processor over to this thread.
            fcntl.ioctl(self._listener, seccomp.SET_FLAGS, seccomp.FD_SYNC_WAKE_UP)
        seccomp.serve(self._listener, self._answer, self._stopped)

    def _answer(self, request: bytes) -> None:
        connect = Connect(self._listener, request)
        answer: Decision
        try:
            answer = self._ask(connect, functools.partial(self._decide, connect))
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets an answer
            answer = self._refuse(connect, error)
        if isinstance(answer, int):
            seccomp.send(self._listener, connect.cookie, answer)
        else:
            self._answer_later(connect, answer)

    def _decide(self, connect: Connect) -> Decision:
        connect.look()
        return self._policy.decide(connect)

    def _ask(self, connect: Connect, find: Callable[[], T]) -> T | Answer:
        """Returns what is found, after as many attempts as it takes."""
        retries = 0
        while True:
            try:
                return find()
            except HIDDEN:
                if not connect.is_waiting():
                    raise
                self._policy.report_unseen(connect)
                return 0
            except OSError as error:
                if error.errno not in LIMITS or retries == MOST_RETRIES:
                    raise
            retries += 1
            time.sleep(RETRY_PAUSE)

    def _answer_later(self, connect: Connect, find: Callable[[], Answer]) -> None:
        def answer() -> None:
            try:
                result = self._ask(connect, find)
            except Exception as error:  # noqa: BLE001 - as above
                result = self._refuse(connect, error)
            seccomp.send(self._listener, connect.cookie, result)
            self._answers.discard(thread)

        thread = threading.Thread(target=answer, daemon=True)
        self._answers.add(thread)
        try:
            thread.start()
        except RuntimeError:
            answer()  # No thread can be started: the others wait.

    def _refuse(self, connect: Connect, error: Exception) -> Answer:
        if connect.is_waiting():
            with suppress(Exception):  # The caller gets an answer even if that fails.
                self._policy.report_failure(connect, error)
        return REFUSED
