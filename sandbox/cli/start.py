"""Starts a sandbox for a shell, until the shell ends: ``sandbox start``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ..errors import SandboxError
from ..registry import inventory
from ..run.environment import BEFORE
from .before import record, undone
from .options import (
    CONTEXT_SETTINGS,
    SandboxOption,
    sandbox_of,
    sandbox_options,
    shell_option,
    wrong_env,
)
from .output import print_statements, say
from .parameters import Duration
from .shells import asking_process, evaluated, is_variable_name, statements
from .variables import variables_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import SandboxOptions


@click.command("start", context_settings=CONTEXT_SETTINGS)
@click.option(
    "--ttl",
    cls=SandboxOption,
    type=Duration(),
    default="8h",
    show_default=True,
    metavar="TIME",
    help="End the sandbox after this time, such as 90m or 2d.",
)
@shell_option
@sandbox_options
def command(ttl: float, shell: str, **options: Unpack[SandboxOptions]) -> None:
    """Start a sandbox for this shell, and print its variables.

    Commands in this shell then run as under 'sandbox exec'. The sandbox ends with 'sandbox stop',
    with the shell, or after --ttl.

    Each option can also be set in the environment: --memory as MEMCACHED_SANDBOX_MEMORY.

    If it fails, its output fails, too, when a shell evaluates it.

    \b
        eval "$(sandbox start)" && ./manage.py test     sh, bash, zsh
        sandbox start --shell fish | source             fish
    """
    from .daemon import keeper

    for name, _ in options["env"]:
        if not is_variable_name(name):
            raise wrong_env(
                f"a shell has no variable {name!r}: use letters, '_' and, except first, digits."
            )
    _refuse_another()
    # An earlier start in this shell, whose sandbox has ended, is undone.
    earlier = undone(os.environ)
    before = {name: value for name, value in {**os.environ, **earlier}.items() if value is not None}
    with keeper(
        sandbox_of(options),
        options["servers"],
        lambda servers, control: variables_of(options, before, servers, control),
        asking_process(),
        ttl,
    ) as variables:
        # Those of --env are last: a shell may refuse one, such as a read-only UID.
        started = {"MEMCACHED_SANDBOX_SHELL": shell, **variables}
        started[BEFORE] = record(started, before)
        restored = {name: value for name, value in earlier.items() if name not in started}
        print_statements(statements({**restored, **started}, shell))
    if sys.stdout.isatty():
        line = evaluated("sandbox start", shell)
        say(f"nothing has changed in this shell: to use a sandbox, run {line}.")


def _refuse_another() -> None:
    """Raises SandboxError if this shell has a sandbox that runs."""
    control = os.environ.get("MEMCACHED_SANDBOX_CONTROL", "") if os.environ.get(BEFORE) else ""
    for server in inventory.servers()[0] if control else ():
        if server.is_of(control):
            line = evaluated("sandbox stop", os.environ.get("MEMCACHED_SANDBOX_SHELL", "sh"))
            raise SandboxError(
                f"this shell has a sandbox already, {server.directory.name}: end it with {line}"
            )
