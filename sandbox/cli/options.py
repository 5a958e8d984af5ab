"""The options of every command that makes a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from ..errors import OptionError
from ..run.environment import (
    MAIN_MEMCACHED,
    Injection,
    for_command,
    for_injection,
    unknown_placeholder,
    without_injection,
)
from ..run.sandbox import Sandbox
from .parameters import Address, Size, Variable

if TYPE_CHECKING:
    from ..server.memcached import Memcached

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])

# Has each option taken from the environment too, --memory from MEMCACHED_SANDBOX_MEMORY.
CONTEXT_SETTINGS = {"auto_envvar_prefix": "MEMCACHED_SANDBOX"}

# The options as `Memcached` calls them, and as they are called here.
NAMES = {
    "memory_mb": "--memory",
    "max_item_size": "--max-item-size",
    "threads": "--threads",
    "args": "--memcached-arg",
}


class SandboxOptions(TypedDict):
    """Their values, as `sandbox_options` has click pass them."""

    memory: int
    max_item_size: int | None
    threads: int
    unix: bool
    memcached: str | None
    memcached_arg: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    servers: int
    exclude: tuple[str, ...]
    flush: str
    guard: tuple[str, ...]
    no_guard: bool
    no_inject: bool


_OPTIONS = [
    click.option(
        "-m",
        "--memory",
        type=int,
        default=64,
        show_default=True,
        metavar="MB",
        help="The cap of each server's memory.",
    ),
    click.option(
        "-I",
        "--max-item-size",
        type=Size(),
        metavar="SIZE",
        help="The largest value it takes, such as 2m. [default: 1m]",
    ),
    click.option(
        "-t",
        "--threads",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Its worker threads.",
    ),
    click.option(
        "--unix",
        is_flag=True,
        help="Listen on a Unix socket, out of reach of other users of this machine.",
    ),
    click.option(
        "--memcached",
        metavar="PATH",
        help="The memcached to run. [default: $MEMCACHED_SANDBOX_BINARY, or the one on PATH]",
    ),
    click.option(
        "--memcached-arg",
        multiple=True,
        metavar="ARG",
        help="A further argument for memcached; repeatable.",
    ),
    click.option(
        "--env",
        type=Variable(),
        multiple=True,
        metavar="NAME=TEMPLATE",
        help="A variable to set, with {address}, {host} and {port} in it; repeatable.",
    ),
    click.option(
        "--servers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Servers to start for --env, as {address1} to {addressN} and so on.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="ALIAS",
        help="An alias in CACHES to leave alone; repeatable.",
    ),
    click.option(
        "--flush",
        type=click.Choice(["test", "never"]),
        default="test",
        show_default=True,
        help="Empty the caches after each test, or never.",
    ),
    click.option(
        "--guard",
        type=Address(),
        multiple=True,
        metavar="HOST:PORT",
        help="A further address that must not be connected to; repeatable.",
    ),
    click.option("--no-guard", is_flag=True, help="Let the main memcached be connected to."),
    click.option(
        "--no-inject",
        is_flag=True,
        help="Change nothing in Python processes: only set variables.",
    ),
]


shell_option = click.option(
    "--shell",
    type=click.Choice(["sh", "bash", "zsh", "fish"]),
    default="sh",
    show_default=True,
    help="In whose language to print.",
)


def sandbox_options(command: CommandFunction) -> CommandFunction:
    """Give a command all options of a sandbox."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sandbox_of(options: SandboxOptions) -> Sandbox:
    """Return the sandbox that was asked for; nothing runs yet. Raises click's BadParameter."""
    for name, template in options["env"]:
        if problem := unknown_placeholder(
            f"{name}={template}", options["servers"], options["unix"]
        ):
            raise click.BadParameter(problem, param_hint="--env")
    try:
        return Sandbox(
            memory_mb=options["memory"],
            max_item_size=options["max_item_size"],
            threads=options["threads"],
            unix_socket=options["unix"],
            binary=options["memcached"],
            args=options["memcached_arg"],
        )
    except OptionError as error:
        raise click.BadParameter(f"{error.problem}.", param_hint=NAMES[error.option]) from None


def variables_of(
    options: SandboxOptions,
    environ: Mapping[str, str],
    servers: Sequence[Memcached],
    control: str,
) -> dict[str, str]:
    """Return the variables that lead into a sandbox, beside those that are in ``environ``."""
    if options["no_inject"]:
        injected = without_injection(environ)
    else:
        guarded = [] if options["no_guard"] else [MAIN_MEMCACHED, *options["guard"]]
        injection = Injection(options["exclude"], options["flush"], guarded)
        injected = for_injection(environ, injection)
    return {**injected, **for_command(environ, servers, control, options["env"])}
