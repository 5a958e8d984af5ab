"""Chooses the guards of a command: the one in Python alone, or that of the kernel, too."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

from ..errors import SandboxError
from ..inject import hooks, refusals
from .options import PREFIX, run_options
from .output import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from ..run.control import Control
    from ..run.kernel_guard import KernelGuard
    from ..run.sandbox import Sandbox
    from ..run.summary import Summary
    from ..server.memcached import Memcached

# What the end of a run tells where the kernel guard could have done more.
REDIRECT_HINT = "--redirect leads all programs that connect to the main memcached to the sandbox"
STRICT_HINT = "--strict refuses connections to the main memcached to programs in any language"

NOT_TOLD = "no process told its CACHES: only port 11211 and --guard were guarded"

NOT_EMPTIED = (
    "where programs were led to was not emptied between tests: no Python process of the run could "
    "do it"
)


class Guards(NamedTuple):
    """Tells which guards a command is to have.

    kernel: whether to have that of the kernel.
    demanded: the option that demands it, as it was typed; "" if the run can do without.
    redirects: whether it leads connections to the sandbox.
    strict: whether the run fails for a refused connection.
    unix: whether servers listen on Unix sockets.
    """

    kernel: bool
    demanded: str
    redirects: bool
    strict: bool
    unix: bool

    @classmethod
    def of(cls, redirects: bool, kernel: bool | None, strict: bool, unix: bool) -> Self:
        """Returns the guards for some options of the command.

        :param kernel: whether that of the kernel was asked for, or refused; None for neither.
        :raises click.UsageError: the options contradict each other.
        """
        asked = [("redirect", redirects), ("kernel_guard", kernel), ("strict", strict)]
        words = [_typed(name) for name, is_given in asked if is_given]
        contradictions = [
            (words and run_options().get("guard", ()) is None, "no_guard", "needs the guard"),
            (redirects and kernel is False, "kernel_guard", "needs the kernel guard"),
            (redirects and unix, "unix", "leads to servers that listen on a port"),
        ]
        for is_contradiction, other, need in contradictions:
            if is_contradiction:
                raise click.UsageError(f"{words[0]} {need}: give either it or {_typed(other)}.")
        demanded = words[0] if redirects or kernel else ""
        wanted = bool(demanded) or (strict and kernel is None)
        return cls(wanted, demanded, redirects, strict, unix)

    @property
    def leads(self) -> str:
        """What the guard of the kernel leads to servers: "", "workers" or "all"."""
        if self.redirects:
            return "all"
        return "workers" if self.kernel else ""

    def kernel_guard(self, sandbox: Sandbox, injects: bool) -> KernelGuard | None:
        """Returns the guard of the kernel if the command is to have it, and can.

        :param injects: whether the command has the guard in Python.
        :raises SandboxError: it was asked for, and there is none on this kind of machine.
        """
        if not self.kernel:
            return None
        from ..run.kernel_guard import KernelGuard

        control = sandbox.control_directory.socket
        guarded = [hooks.MAIN_MEMCACHED, *run_options().get("guard", ())]
        try:
            return KernelGuard(sandbox, control, guarded, self.redirects)
        except SandboxError as error:
            self.explain_absence(error, injects)
            return None

    def explain_absence(self, error: SandboxError, injects: bool) -> None:
        """Prints that the command goes on without the guard of the kernel.

        :param injects: whether it has the guard in Python.
        :raises SandboxError: it was asked for.
        """
        if self.demanded:
            raise SandboxError(f"{self.demanded} needs the kernel guard: {error}")
        guarded = "only Python processes are guarded" if injects else "nothing is guarded"
        say(f"{guarded}, as there is no kernel guard: {error}.")

    def tell(
        self,
        summary: Summary,
        kernel_guard: KernelGuard,
        control: Control,
        launched: Sequence[Memcached],
    ) -> None:
        """Adds to the summary what the guard of the kernel has seen."""
        summary.refusals += kernel_guard.told
        kinds = {refusal.kind for refusal in summary.refusals}
        if not control.was_asked and not kinds & {refusals.OTHER, refusals.EXCLUDED}:
            summary.add_note(NOT_TOLD)
        emptied = {*control.told}
        if refusals.FLUSHED in kinds:
            emptied.update(server.address for server in launched)
        if run_options().get("flush") != "never" and not kernel_guard.led_to <= emptied:
            summary.add_note(NOT_EMPTIED)

    def hint(self, kernel_guard: KernelGuard | None) -> str:
        """Returns which options would make more of the kernel guard; "" if none would."""
        is_absent = self.kernel and not (kernel_guard and kernel_guard.is_on)
        if is_absent or sys.platform != "linux":
            return ""
        hints = [REDIRECT_HINT] if not (self.redirects or self.unix) else []
        if not (self.kernel or self.strict):
            hints.append(STRICT_HINT)
        return "; ".join(hints)


def _typed(name: str) -> str:
    """Returns an option as it was typed, or set in the environment."""
    context = click.get_current_context()
    if name == "no_guard" and not context.params[name]:
        name = "guard"  # of which "off" is a value
    (parameter,) = (each for each in context.command.params if each.name == name)
    if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
        variable = str(parameter.envvar or f"{PREFIX}_{name.upper()}")
        return f"{variable}={os.environ[variable]}"
    if name == "guard":
        return "--guard off"
    is_off = context.params[name] is False
    return (parameter.secondary_opts if is_off else parameter.opts)[-1]
