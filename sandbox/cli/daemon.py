"""Keeps the sandbox of a shell in a background process, which ends with the shell."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from ..errors import SandboxError
from ..run.control import Control
from .child import hold_signals
from .output import describe

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.memcached import Memcached

ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

ENDED = "the process that keeps the sandbox has ended before it was ready"

Variables = Callable[["list[Memcached]", str], "dict[str, str]"]


@contextmanager
def keeper(
    sandbox: Sandbox,
    count: int,
    variables: Variables,
    shell: psutil.Process | None,
    ttl: float,
) -> Iterator[dict[str, str]]:
    """Starts servers in a background process, and yields the variables that lead to them.

    The process ends the sandbox when the shell ends, after ``ttl`` seconds, when one of the servers
    has ended, or at a signal. It also does so if the context is left by an exception, or if this
    process ends within it.

    :param count: how many servers to start.
    :param variables: makes the variables of the servers and the path of the control socket.
    :param shell: None for a shell that is not known.
    :raises SandboxError: that failed; nothing is left then.
    """
    answer, answering = os.pipe()
    asked, asking = os.pipe()
    if os.fork() == 0:
        with sandbox:
            _keep(sandbox, count, variables, shell, ttl, answering, asked)
        sys.exit()
    os.close(answering)
    os.close(asked)
    with open(answer, "rb") as answers:
        try:
            with open(asking, "wb", buffering=0) as words:
                yield _variables(answers.readline())
                words.write(b"\n")
        except BrokenPipeError:
            raise SandboxError(ENDED) from None
        except SandboxError:
            answers.read()  # until the keeper has ended
            raise


def _variables(answer: bytes) -> dict[str, str]:
    if not answer:
        raise SandboxError(ENDED)
    outcome = json.loads(answer)
    if "error" in outcome:
        raise SandboxError(outcome["error"])
    variables: dict[str, str] = outcome["variables"]
    return variables


def _become_daemon(kept: set[int]) -> None:
    """Leaves the terminal and closes inherited descriptors: a reader may wait for their end.

    stderr is closed when the variables are printed: errors are printed there until then.

    :param kept: descriptors not to close.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    # Those that are open, and not all that might be: there may be a billion of them.
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                pass  # It was the one that the list was read from.


def _keep(
    sandbox: Sandbox,
    count: int,
    variables: Variables,
    shell: psutil.Process | None,
    ttl: float,
    answering: int,
    asked: int,
) -> None:
    """Starts the servers, sends their variables, and waits until it is time to end."""
    outcome: dict[str, object]
    try:
        _become_daemon({answering, asked})
        servers = sandbox.launch(count)
        for server in servers:
            server.wait()
        hold_signals()
        control = Control(sandbox, sandbox.control_directory.socket)
        outcome = {"variables": variables(servers, control.path)}
    except SandboxError as error:
        outcome = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it was, the user is told
        outcome = {"error": describe(error)}
    try:
        os.write(answering, json.dumps(outcome).encode() + b"\n")
    except BrokenPipeError:
        return  # The process that waits for it was killed.
    # This process may have the other end of `asked` itself, if it could not become a daemon.
    if "error" in outcome or not os.read(asked, 1):
        return  # There is nothing to print, or it could not be printed.
    os.dup2(0, 2)
    os.close(answering)
    threading.Thread(target=_await_end_of, args=(shell, ttl), daemon=True).start()
    while not any(server.exit_reason() for server in sandbox.servers):
        if signal.sigwait({signal.SIGCHLD, *ENDS}) != signal.SIGCHLD:
            return


def _await_end_of(shell: psutil.Process | None, ttl: float) -> None:
    try:
        if shell is None:
            threading.Event().wait(ttl)
        else:
            shell.wait(ttl)
    except psutil.TimeoutExpired:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
