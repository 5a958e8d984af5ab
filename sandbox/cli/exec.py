"""``sandbox exec``: a command with a memcached of its own."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress

import click

from ..errors import OptionError
from ..server import Memcached

PLACEHOLDER = r"\{(\w+)\}"
OPTIONS = {
    "memory_mb": "--memory",
    "max_item_size": "--max-item-size",
    "threads": "--threads",
    "args": "--memcached-arg",
}
SUFFIXES = {"k": 1024, "m": 1024 * 1024}


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, with k and m for the multiples that memcached's own -I takes."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = re.fullmatch(r"(\d+)([km]?)", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a size: give bytes, or 512k, or 2m.", param, ctx)
        return int(match[1]) * SUFFIXES.get(match[2].lower(), 1)


class Variable(click.ParamType):  # type: ignore[type-arg]
    """NAME=TEMPLATE, a variable for the command's environment."""

    name = "name=template"

    def convert(
        self,
        value: str | tuple[str, str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, template = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=TEMPLATE.", param, ctx)
        unknown = set(re.findall(PLACEHOLDER, template)) - {"address", "host", "port"}
        if unknown:
            self.fail(
                f"{{{unknown.pop()}}} in {value!r} is none of {{address}}, {{host}} and {{port}}.",
                param,
                ctx,
            )
        return name, template


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
    help="The cap of its memory.",
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
    quiet: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND with a memcached of its own, which ends with it.

    COMMAND finds the server in MEMCACHED_SANDBOX_ADDRESS and MEMCACHED_SANDBOX_PID; Django
    settings that use sandbox.django.sandboxed are pointed at it. The exit status is COMMAND's;
    125 when the sandbox failed, 126 when COMMAND cannot be executed, 127 when it is not found.

    Each option can also be set in the environment: --memory as MEMCACHED_SANDBOX_MEMORY.

    \b
        sandbox exec -- ./manage.py test
        sandbox exec -m 128 --env 'CACHE_URL=pymemcache://{address}' -- pytest -x
    """  # fmt: skip
    if unix and any(
        set(re.findall(PLACEHOLDER, template)) & {"host", "port"} for _, template in env
    ):
        raise click.UsageError("A Unix socket has no {host} and {port}: use {address} in --env.")
    try:
        server = Memcached(
            memory_mb=memory,
            max_item_size=max_item_size,
            threads=threads,
            unix_socket=unix,
            binary=memcached,
            args=memcached_arg,
        )
    except OptionError as error:
        raise click.BadParameter(f"{error.problem}.", param_hint=OPTIONS[error.option]) from None
    server.launch()
    from .command import Command, CommandError  # while the server comes up

    server.wait()
    if verbose:
        say(f"memcached at {server.address}, pid {server.pid}: {shlex.join(server.command)}")
    try:
        child = Command(command, {**os.environ, **_variables(server, env)})
    except CommandError as error:
        say(str(error))
        return error.status
    status = child.wait(server.end_descriptor(), lambda: say(f"memcached {server.death()}."))
    if server.death() is not None:
        say(f"memcached did not live to the end of the run: it {server.death()}.")
    elif not quiet:
        say(summary(server))
    server.stop()
    child.die_as_it_did()
    return status


def summary(server: Memcached) -> str:
    """Return the run in one line: what it asked of its server, and how full that became."""
    stats = server.stats()
    gets, hits, sets, evictions = (
        int(stats[name]) for name in ("cmd_get", "get_hits", "cmd_set", "evictions")
    )
    hit_rate = f" ({100 * hits / gets:.1f} % hits)" if gets else ""
    # Pages that a slab class took are never given back, so that their sum is its own peak.
    peak_mb = int(server.stats("slabs")["total_malloced"]) / (1024 * 1024)
    return (
        f"{gets:,} gets{hit_rate}, {sets:,} sets, {evictions:,} evictions, "
        f"peak memory {peak_mb:.1f} of {server.memory_mb} MB"
    )


def say(line: str) -> None:
    with suppress(BrokenPipeError):  # stderr has gone away, as it may: the status still tells
        click.echo(f"sandbox: {line}", err=True)


def _variables(server: Memcached, templates: tuple[tuple[str, str], ...]) -> dict[str, str]:
    host, _, port = server.address.rpartition(":")
    values = {"address": server.address, "host": host, "port": port}
    return {
        "MEMCACHED_SANDBOX_ADDRESS": server.address,
        "MEMCACHED_SANDBOX_PID": str(server.pid),
        **{
            name: re.sub(PLACEHOLDER, lambda match: values[match[1]], template)
            for name, template in templates
        },
    }
