"""Processes and the kernel; here what keeps a descriptor from being lost, or held by a fork.

Python runs a signal handler between two instructions, and that of Ctrl-C raises KeyboardInterrupt:
a descriptor that a system call has just returned would be lost before it is stored. And a fork of
the owner must not keep open what tells others that the owner lives.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class HasDescriptors(Protocol):
        """Closes descriptors."""

        def close_fds(self) -> None:
            """Closes them."""


# Signals whose handlers may raise: Ctrl-C, time limits, and requests to end.
SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class deferred:  # noqa: N801 - used as `with deferred():`, like contextlib's suppress
    """Runs its body to the end, and Python's signal handlers afterwards.

    Only the main thread runs handlers, so in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._received: set[int] = set()

    def __enter__(self) -> None:
        try:
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._receive)
        except ValueError:  # Only the main thread may set a handler: signal.signal.
            self._handlers.clear()
        except BaseException:
            self._restore()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._restore()
        finally:
            self._call_handlers()

    def _receive(self, number: int, _: object) -> None:
        self._received.add(number)

    def _restore(self) -> None:
        try:
            self._set_handlers()
        except BaseException:  # A handler that is in place again has raised: the others follow.
            self._set_handlers()
            raise

    def _set_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _call_handlers(self) -> None:
        if self._received:
            number = self._received.pop()
            try:
                self._handlers[number](number, sys._getframe())
            finally:  # The handler may have raised: the others are called all the same.
                self._call_handlers()


_to_close: weakref.WeakSet[HasDescriptors] = weakref.WeakSet()

# Held while descriptors are opened or closed: a fork by another thread waits until they are stored.
no_fork = threading.RLock()


def close_in_forks(thing: HasDescriptors) -> None:
    """Calls the method ``close_fds`` of a thing in each fork of this process, while it lives."""
    _to_close.add(thing)


def _close_inherited() -> None:
    no_fork.release()
    for thing in list(_to_close):
        thing.close_fds()


os.register_at_fork(
    before=no_fork.acquire,
    after_in_parent=no_fork.release,
    after_in_child=_close_inherited,
)
