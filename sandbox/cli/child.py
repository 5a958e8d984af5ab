"""Runs a command as env, nice and timeout do: the shell sees no difference.

The command shares the process group and the terminal of this process. It gets what is typed at the
terminal from the kernel, and what is sent to this process from here; the kernel tells the two
apart. When it stops, this process stops too, so that a shell with job control sees its job stop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

import click

from ..errors import SandboxError
from .output import describe, say

PASSED_ON = {
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTSTP,
    # These end a process by default, and exec does not end before its command.
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGXCPU,
    signal.SIGIO,
}
WATCHED = PASSED_ON | {signal.SIGCHLD}

# What the terminal sends to all processes of its foreground group.
TYPED = {signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGTSTP}

# siginfo's si_code of a signal that the kernel sent, and the terminal is the kernel: sigaction(2).
SI_KERNEL = 0x80


class NotFoundError(click.ClickException):
    """There is no such command."""

    exit_code = 127


class NotExecutableError(click.ClickException):
    """There is such a command, but it cannot be executed."""

    exit_code = 126


def _mistaken(
    kind: type[click.ClickException], command: Sequence[str], reason: str
) -> click.ClickException:
    """Returns the error of a command that cannot be executed, with what was probably meant."""
    from .mistakes import proposal

    return kind(f"{command[0] or repr('')}: {reason}{proposal(command, was_tried=True)}")


def hold_signals() -> set[int]:
    """Blocks the signals that `Command.wait` waits for; returns those that were blocked before.

    Threads inherit this. A thread that was started earlier would receive the signals instead.
    """
    # An ignored signal is not blocked everywhere. SIGCHLD, which this process may have inherited as
    # ignored, would take the exit status of the command away.
    for signum in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT):
        signal.signal(signum, lambda *_: None)
    return signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


class PostponedErrors:
    """Keeps errors from ending this process before its command, and reports them later.

    Use it as a context manager, as often as needed: it lets no `Exception` out of the body.
    """

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def report(self) -> None:
        """Reports the errors so far, each once."""
        for line in self._lines:
            say(f"{line}.")

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, SandboxError):
            self._lines[str(error)] = None
        elif isinstance(error, Exception):
            self._lines[f"sandbox exec failed beside its command: {describe(error)}"] = None
        return isinstance(error, Exception)


class Command:
    """Starts a command, and waits for it.

    :param mask: the signals to block in it, as `hold_signals` has returned them.
    :param spawn: starts the command by calling its argument, and returns the pid.
    :raises NotFoundError: there is no such command.
    :raises NotExecutableError: it cannot be executed.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        mask: set[int],
        spawn: Callable[[Callable[[], int]], int] | None = None,
    ) -> None:
        self.errors = PostponedErrors()  # since the command was started
        self._interrupt_was_typed = False

        def start() -> int:
            return os.posix_spawnp(
                command[0],
                list(command),
                env,
                setsigmask=mask,
                # Python ignores these two, and the command would inherit that.
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )

        try:
            self.pid = start() if spawn is None else spawn(start)
        except (FileNotFoundError, ValueError):  # ValueError: the name is empty.
            reason = "command not found"
            if os.sep in command[0] and os.path.exists(command[0]):
                reason = "the interpreter that its first line names was not found"
            raise _mistaken(NotFoundError, command, reason) from None
        except OSError as error:
            raise _mistaken(NotExecutableError, command, f"{error.strerror}") from None

    def wait(self, on_child: Callable[[], object]) -> int:
        """Waits for the command and returns its exit status, 128+n if signal n ended it.

        Errors meanwhile are postponed.

        :param on_child: called whenever a child of this process has ended or stopped.
        """
        while True:
            signum: int = signal.SIGCHLD  # which it may have been if an error loses it
            with self.errors:
                signum, typed = _next_signal()
                if signum == signal.SIGCHLD:
                    on_child()
                elif not typed:
                    self._pass_on(signum)
                elif signum == signal.SIGINT:
                    self._interrupt_was_typed = True
            if signum == signal.SIGCHLD:
                pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
                if pid and os.WIFSTOPPED(status):
                    with self.errors:
                        self._stop_too()
                elif pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._interrupt_was_typed &= code == -signal.SIGINT
                    return code if code >= 0 else 128 - code

    def die_as_it_did(self) -> None:
        """Ends this process by SIGINT, if a typed Ctrl-C ended the command and a shell waits.

        A shell ends its script when Ctrl-C killed a command, but not for an exit status of 130.
        """
        if self._interrupt_was_typed and os.getsid(0) != os.getpid():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            os.kill(os.getpid(), signal.SIGINT)

    def _pass_on(self, signum: int) -> None:
        try:
            os.kill(self.pid, signum)
        except PermissionError:
            name = signal.Signals(signum).name
            raise SandboxError(
                f"{name} was not passed on to the command: process {self.pid} is another user's"
            ) from None

    def _stop_too(self) -> None:
        """Stops this process as the command has stopped, and continues the command afterwards.

        Without a terminal there is no job control, and nothing would continue this process.
        """
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return
        _take_pending(signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        continued, _ = os.waitpid(self.pid, os.WNOHANG | os.WCONTINUED)
        if _take_pending(signal.SIGCONT) and not continued:
            os.kill(self.pid, signal.SIGCONT)


def _next_signal() -> tuple[int, bool]:
    """Waits for a signal; returns it, and whether the terminal sent it to the whole group."""
    if sys.platform == "linux":
        info = signal.sigwaitinfo(WATCHED)
        return info.si_signo, info.si_code == SI_KERNEL
    # macOS does not tell who sent a signal: in the foreground, the keyboard is the usual sender.
    signum = signal.sigwait(WATCHED)
    return signum, signum in TYPED and _in_foreground()


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _take_pending(signum: signal.Signals) -> bool:
    pending = signum in signal.sigpending()
    if pending:
        signal.sigwait({signum})
    return pending
