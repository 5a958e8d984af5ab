"""Defines the options of every command that makes a sandbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..errors import OptionError
from ..run.options import OF_INSPECTION, OF_RUN, read_run, read_wanted
from ..run.sandbox import Sandbox
from ..server.options import (
    BY_KEYWORD,
    OF_MEMCACHED,
    OPTIONS,
    Given,
    Option,
    merged,
    read_memcached,
    typed,
)
from .parameters import Variable

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])

# Has each option taken from the environment too, --memory from MEMCACHED_SANDBOX_MEMORY.
PREFIX = "MEMCACHED_SANDBOX"
CONTEXT_SETTINGS = {"auto_envvar_prefix": PREFIX}

if TYPE_CHECKING:
    from typing import TypedDict

    from ..inspection.wanted import Wanted

    class SandboxOptions(TypedDict, total=False):
        """Parameters of a command with `sandbox_options`, without those of memcached."""

        unix: bool
        env: tuple[tuple[str, str], ...]
        servers: int
        no_inject: bool


# What means nothing together, on the command line: the environment may be for several commands.
# The last of each are options with which it has a meaning: the guard of the kernel uses --guard.
_CHANGES_NOTHING = "which changes nothing in Python processes"
EXCLUSIVE: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("--guard", "--no-guard", "which turns the guard off", ()),
    ("--guard", "--no-inject", _CHANGES_NOTHING, ("--strict", "--redirect", "--kernel-guard")),
    *((flag, "--no-inject", _CHANGES_NOTHING, ()) for flag in ("--exclude", "--flush", "--crawl")),
]


class SandboxOption(click.Option):
    """Names its variable in errors if it was set in the environment."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Returns the name under which the value was typed."""
        if ctx and self.name and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
            return f"{PREFIX}_{self.name.upper()}"
        return super().get_error_hint(ctx)


def table_option(option: Option, **attributes: Any) -> Callable[[CommandFunction], CommandFunction]:
    """Returns click's option for one of the table.

    The values are read by the table, so that their errors are those of all ways in.
    """
    default = f" [default: {option.default}]" if option.default else ""
    if option.metavar:
        attributes = {"metavar": option.metavar, "multiple": option.repeatable} | attributes
    else:
        attributes["is_flag"] = True
    return click.option(
        option.word,
        *option.command_flags,
        cls=SandboxOption,
        envvar=option.variable,
        allow_from_autoenv=False,
        help=f"{option.help}{default}",
        **attributes,
    )


_OPTIONS: list[Callable[..., Any]] = [
    *map(table_option, OF_MEMCACHED),
    click.option(
        "--env",
        cls=SandboxOption,
        type=Variable(),
        multiple=True,
        metavar="NAME=TEMPLATE",
        help="Set a variable, with {address}, {host} and {port} filled in; repeatable.",
    ),
    click.option(
        "--servers",
        cls=SandboxOption,
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Servers to start, for {address1} to {addressN} in --env.",
    ),
    table_option(BY_KEYWORD["exclude"]),
    table_option(BY_KEYWORD["flush"]),
    table_option(BY_KEYWORD["guard"]),
    table_option(BY_KEYWORD["no_guard"]),
    click.option(
        "--no-inject",
        cls=SandboxOption,
        is_flag=True,
        help="Only set variables: change nothing in Python processes.",
    ),
]


shell_option = click.option(
    "--shell",
    cls=SandboxOption,
    type=click.Choice(["sh", "bash", "zsh", "fish"]),
    default="sh",
    show_default=True,
    help="Shell syntax to print.",
)


def sandbox_options(command: CommandFunction) -> CommandFunction:
    """Gives a command all options of a sandbox."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def inspection_options(command: CommandFunction) -> CommandFunction:
    """Gives a command all options of what its end tells of the caches; see `wanted_of`."""
    for option in reversed(OPTIONS):
        if option.keyword in OF_INSPECTION:
            command = table_option(option)(command)
    return command


def sandbox_of(options: SandboxOptions) -> Sandbox:
    """Returns the sandbox that the command was asked for; nothing runs yet.

    :raises click.UsageError: an option is wrong.
    """
    context = click.get_current_context()
    for name, template in options["env"]:
        from ..run.environment import unknown_placeholder  # Most commands need none.

        if problem := unknown_placeholder(
            f"{name}={template}", options["servers"], options["unix"]
        ):
            raise wrong_env(problem)
    typed_servers = context.get_parameter_source("servers") is ParameterSource.COMMANDLINE
    if typed_servers and options["servers"] > 1 and not options["env"]:
        (servers,) = (option for option in context.command.params if option.name == "servers")
        raise click.BadParameter(
            "further servers are for {address2} and so on in --env: give --env as well.",
            context,
            servers,
        )
    for first, second, reason, unless in EXCLUSIVE:
        sources = {context.get_parameter_source(_name(flag)) for flag in (first, second)}
        has_meaning = any(context.params.get(_name(flag)) for flag in unless)
        if sources == {ParameterSource.COMMANDLINE} and not has_meaning:
            raise click.UsageError(f"{first} means nothing with {second}, {reason}: drop one.")
    try:
        run_options()  # What is wrong is an error before anything starts.
        memcached_options = read_memcached(
            _given(OF_MEMCACHED), lambda keyword: BY_KEYWORD[keyword].command_flags[-1]
        )
    except OptionError as error:
        raise click.UsageError(f"{error}.", context) from None
    return Sandbox(**memcached_options)


def _name(flag: str) -> str:
    """Returns the parameter of an option, such as ``no_guard`` of ``--no-guard``."""
    return flag.removeprefix("--").replace("-", "_")


def wrong_env(problem: str) -> click.BadParameter:
    """Returns the error of a wrong --env, under the name by which it was typed."""
    context = click.get_current_context()
    (env,) = (option for option in context.command.params if option.name == "env")
    return click.BadParameter(problem, context, env)


def run_options() -> dict[str, Any]:
    """Returns the options of a run that the command was given."""
    return read_run(_given(OF_RUN))


def wanted_of(no_inject: bool) -> Wanted | None:
    """Returns what the command is to tell of the caches; None for nothing.

    :raises click.UsageError: an option is wrong.
    """
    given = _given(BY_KEYWORD[keyword] for keyword in (*OF_INSPECTION, "flush"))
    try:
        wanted = read_wanted(given)
    except OptionError as error:
        raise click.UsageError(f"{error}.") from None
    if no_inject and wanted is not None and (wanted.tells_leaks or wanted.findings):
        keyword = min(given.keys() & {"leaks", "leaks_json", "findings"})
        spelled = given[keyword].spelled
        raise click.UsageError(f"{spelled} means nothing with --no-inject, {_CHANGES_NOTHING}.")
    return wanted


def _given(options: Iterable[Option]) -> dict[str, Given]:
    """Returns what was typed on the command line or, before that, set in the environment."""
    context = click.get_current_context()
    in_environment, on_line = {}, {}
    for option in options:
        value, source = context.params[option.word], context.get_parameter_source(option.word)
        if source is ParameterSource.ENVIRONMENT:
            spelled = f"{option.variable}={os.environ[option.variable]}"
            in_environment[option.keyword] = Given(value, spelled)
        elif source is ParameterSource.COMMANDLINE:
            on_line[option.keyword] = typed(option, option.command_flags[-1], value, joint=" ")
    return merged(in_environment, on_line)
