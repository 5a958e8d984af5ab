"""Ends sandboxes before their time, and removes stale ones: ``sandbox stop``."""

from __future__ import annotations

import os
import sys

import click

from ..registry.cleanup import remove_stale
from ..registry.run_directory import run_directories, where
from .before import undone
from .ids import servers_with
from .options import CONTEXT_SETTINGS, shell_option
from .output import FAILURE, print_statements, say
from .shells import evaluated, statements


@click.command("stop", context_settings=CONTEXT_SETTINGS)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Stop all sandboxes of this user.")
@click.option("--stale", is_flag=True, help="Remove what killed runs have left.")
@shell_option
def command(ids: tuple[str, ...], every: bool, stale: bool, shell: str) -> int:
    """Stop the sandbox of this shell, or those with the given IDs.

    'sandbox list' shows the IDs. No other memcached is touched. A run fails when its sandbox is
    stopped. In a shell that has used 'sandbox start', the output restores its variables.

    \b
        eval "$(sandbox stop)"
        sandbox stop 5a5f89de
        sandbox stop --all --stale
    """
    control = os.environ.get("MEMCACHED_SANDBOX_CONTROL", "")
    own = not (ids or every or stale)
    if own and not control:
        raise click.UsageError("This shell has no sandbox: give an ID, --all or --stale.")
    servers, unknown = servers_with(ids)
    chosen = [
        server
        for server in servers
        if every or server.directory.name in ids or (own and server.is_of(control))
    ]
    failures = 0
    for server in chosen:
        if reason := server.kill():
            failures += 1
            say(f"could not stop {server.directory.name}: {reason}.")
        else:
            say(f"stopped {server.directory.name}, memcached at {server.record.address}.")
    if every:
        for line in unknown:
            failures += 1
            say(f"{line}: stop it with the version that started it.")
    if stale:
        failures += _remove_stale()
    # Last: the sandbox is stopped even if that cannot be printed.
    if not failures and (own or any(server.is_of(control) for server in chosen)):
        _print_restoring(shell)
    return FAILURE if failures else 0


def _print_restoring(shell: str) -> None:
    """Prints the lines that restore the variables of a shell or, at a terminal, how to run them."""
    variables = undone(os.environ)
    if not variables:
        return
    if sys.stdout.isatty():
        line = evaluated("sandbox stop", shell)
        say(f"this shell still has the variables of the sandbox: {line} restores them.")
    else:
        print_statements(statements(variables, shell))


def _remove_stale() -> int:
    """Returns how many of them cannot be removed."""
    removed, problems = 0, []
    for run in run_directories():
        swept, left = remove_stale(run)
        removed += swept
        problems += left
    for problem in problems:
        say(f"{problem}.")
    servers = "server" if removed == 1 else "servers"
    say(f"removed what {removed} killed {servers} had left {where()}.")
    return len(problems)
