"""Computes the environment variables that lead a command, or a shell, into a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..inject import hooks
from ..run.environment import (
    Injection,
    command_variables,
    injection_variables,
    without_injection,
)
from .options import run_options

if TYPE_CHECKING:
    from ..server.memcached import Memcached
    from .options import SandboxOptions


def variables_of(
    options: SandboxOptions,
    environ: Mapping[str, str],
    servers: Sequence[Memcached],
    control: str,
    leads: str = "",
    marks: bool = False,
) -> dict[str, str]:
    """Returns the variables that lead into a sandbox, beside those that are in ``environ``.

    :param leads: what the guard of the kernel leads to the servers: "", "workers" or "all".
    :param marks: whether tests are marked in the logs of the servers.
    """
    if options["no_inject"]:
        injected = without_injection(environ)
    else:
        given = run_options()
        guard = given.get("guard", ())
        guarded = [] if guard is None else [hooks.MAIN_MEMCACHED, *guard]
        injection = Injection(
            given.get("exclude", ()),
            given.get("flush", "test"),
            given.get("crawl", False),
            guarded,
            leads,
            marks,
        )
        injected = injection_variables(environ, injection)
    injects = not options["no_inject"]
    return {**injected, **command_variables(environ, servers, control, options["env"], injects)}
