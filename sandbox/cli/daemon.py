"""Keeps the sandbox of a shell in a background process, which ends with the shell."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from ..errors import SandboxError
from ..run.control import Control
from .child import hold_signals

if TYPE_CHECKING:
    from ..run.sandbox import Sandbox
    from ..server.memcached import Memcached

ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

Variables = Callable[["list[Memcached]", str], "dict[str, str]"]


def keep(
    sandbox: Sandbox,
    count: int,
    variables: Variables,
    shell: psutil.Process | None,
    ttl: float,
) -> dict[str, str]:
    """Starts servers in a background process and returns the variables that lead to them.

    The process ends the sandbox when the shell ends, after ``ttl`` seconds, when one of the servers
    has ended, or at a signal.

    :param count: how many servers to start.
    :param variables: makes the variables of the servers and the path of the control socket.
    :param shell: None for a shell that is not known.
    :raises SandboxError: that failed; nothing is left then.
    """
    answer, said = os.pipe()
    if os.fork() == 0:
        _become_daemon(said)
        with sandbox:
            _keep(sandbox, count, variables, shell, ttl, said)
        sys.exit()
    os.close(said)
    with open(answer, "rb") as lines:
        text = lines.read()
    if not text:
        raise SandboxError("the process that keeps the sandbox has ended before it was ready")
    outcome = json.loads(text)
    if "error" in outcome:
        raise SandboxError(outcome["error"])
    result: dict[str, str] = outcome["variables"]
    return result


def _become_daemon(said: int) -> None:
    """Leaves the terminal and closes inherited descriptors: a reader may wait for their end.

    stderr is closed when the servers are ready: errors are printed there until then.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    # Those that are open, and not all that might be: there may be a billion of them.
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor != said:
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
    said: int,
) -> None:
    """Starts the servers, sends their variables, and waits until it is time to end."""
    try:
        servers = sandbox.launch(count)
        for server in servers:
            server.wait()
        hold_signals()
        control = Control(sandbox, sandbox.control_directory.socket)
    except SandboxError as error:
        os.write(said, json.dumps({"error": str(error)}).encode())
        return
    try:
        os.write(said, json.dumps({"variables": variables(servers, control.path)}).encode())
    except BrokenPipeError:
        return  # `keep` was interrupted.
    os.close(said)
    os.dup2(0, 2)
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
