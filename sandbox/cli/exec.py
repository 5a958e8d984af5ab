"""``sandbox exec``: a command with a memcached of its own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import OptionError, ServerError
from ..sandbox import Sandbox
from .environment import Injection, for_command, for_injection, unknown_placeholder
from .parameters import Address, Size, Variable

if TYPE_CHECKING:
    from ..server import Memcached
    from .command import Command

FAILURE = 125

# The options as `Memcached` calls them, and as they are called here.
NAMES = {
    "memory_mb": "--memory",
    "max_item_size": "--max-item-size",
    "threads": "--threads",
    "args": "--memcached-arg",
}


@click.command(
    "exec",
    context_settings={
        "allow_interspersed_args": False,
        "auto_envvar_prefix": "MEMCACHED_SANDBOX",
    },
)
@click.option(
    "-m",
    "--memory",
    type=int,
    default=64,
    show_default=True,
    metavar="MB",
    help="The cap of each server's memory.",
)
@click.option(
    "-I",
    "--max-item-size",
    type=Size(),
    metavar="SIZE",
    help="The largest value it takes, such as 2m. [default: 1m]",
)
@click.option(
    "-t",
    "--threads",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Its worker threads.",
)
@click.option(
    "--unix",
    is_flag=True,
    help="Listen on a Unix socket, out of reach of other users of this machine.",
)
@click.option(
    "--memcached",
    metavar="PATH",
    help="The memcached to run. [default: $MEMCACHED_SANDBOX_BINARY, or the one on PATH]",
)
@click.option(
    "--memcached-arg",
    multiple=True,
    metavar="ARG",
    help="A further argument for memcached; repeatable.",
)
@click.option(
    "--env",
    type=Variable(),
    multiple=True,
    metavar="NAME=TEMPLATE",
    help="A variable for COMMAND, with {address}, {host} and {port} in it; repeatable.",
)
@click.option(
    "--servers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Servers to start for --env, as {address1} to {addressN} and so on.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="ALIAS",
    help="An alias in CACHES to leave alone; repeatable.",
)
@click.option(
    "--flush",
    type=click.Choice(["test", "never"]),
    default="test",
    show_default=True,
    help="Empty the caches after each test, or never.",
)
@click.option(
    "--guard",
    type=Address(),
    multiple=True,
    metavar="HOST:PORT",
    help="A further address that the run must not connect to; repeatable.",
)
@click.option("--no-guard", is_flag=True, help="Let the run connect to the main memcached.")
@click.option("--strict", is_flag=True, help="Exit with 125 when the guard refused a connection.")
@click.option(
    "--no-inject",
    is_flag=True,
    help="Change nothing in the Python processes of COMMAND: only set variables.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary at the end.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is started, and where it listens.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    memory: int,
    max_item_size: int | None,
    threads: int,
    unix: bool,
    memcached: str | None,
    memcached_arg: tuple[str, ...],
    env: tuple[tuple[str, str], ...],
    servers: int,
    exclude: tuple[str, ...],
    flush: str,
    guard: tuple[str, ...],
    no_guard: bool,
    strict: bool,
    no_inject: bool,
    quiet: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND with a memcached of its own, which ends with it.

    Django's CACHES are pointed at it in every Python process of COMMAND: a server for each address
    there, a set of servers for each parallel worker, emptied after each test. Others find it in
    MEMCACHED_SANDBOX_ADDRESS and MEMCACHED_SANDBOX_PID.

    The exit status is COMMAND's; 125 when the sandbox failed, 126 when COMMAND cannot be executed,
    127 when it is not found.

    Each option can also be set in the environment: --memory as MEMCACHED_SANDBOX_MEMORY.

    \b
        sandbox exec -- ./manage.py test
        sandbox exec -m 128 --env 'CACHE_URL=pymemcache://{address}' -- pytest -x
    """  # fmt: skip
    for name, template in env:
        if problem := unknown_placeholder(f"{name}={template}", servers, unix):
            raise click.BadParameter(problem, param_hint="--env")
    try:
        sandbox = Sandbox(
            memory_mb=memory,
            max_item_size=max_item_size,
            threads=threads,
            unix_socket=unix,
            binary=memcached,
            args=memcached_arg,
        )
    except OptionError as error:
        raise click.BadParameter(f"{error.problem}.", param_hint=NAMES[error.option]) from None
    guarded = None if no_guard else ["127.0.0.1:11211", *guard]
    injection = None if no_inject else Injection(exclude, flush, guarded)
    with sandbox:
        launched = sandbox.launch(servers)
        child, status = _run(sandbox, launched, command, env, injection, quiet, strict, verbose)
    child.die_as_it_did()
    return status


def _run(
    sandbox: Sandbox,
    launched: Sequence[Memcached],
    command: Sequence[str],
    env: Sequence[tuple[str, str]],
    injection: Injection | None,
    quiet: bool,
    strict: bool,
    verbose: bool,
) -> tuple[Command, int]:
    """Run the command and return it with the exit status; tell of the run on stderr."""
    # While the servers come up:
    from ..control import Control
    from .command import Command, hold_signals
    from .report import Deaths, refused, say, summary

    for server in launched:
        server.wait()
        if verbose:
            say(f"memcached at {server.address}, pid {server.pid}: {shlex.join(server.command)}")
    mask = hold_signals()
    control = Control(sandbox, os.path.join(launched[0].directory, "control"))
    variables = {**os.environ, **for_command(launched, control.path, env)}
    if injection is not None:
        variables |= for_injection(os.environ, injection)
    deaths = Deaths(sandbox)
    child = Command(command, variables, mask)
    status = child.wait(on_child=deaths.look)
    control.stop()
    survivors = deaths.survivors()
    if survivors and not quiet:
        try:
            say(summary(survivors))
        except ServerError as error:
            say(f"{error}.")  # the status is the command's all the same
    if control.refusals:
        say(refused(control.refusals))
        status = FAILURE if strict else status
    return child, status
