"""Breaks a server of a sandbox by hand: ``sandbox break``."""

from __future__ import annotations

import os
import select
import shlex
from contextlib import redirect_stderr
from typing import TYPE_CHECKING

import click

from ..inject import sources
from ..registry.directories import OUTAGES
from .ids import servers_with
from .options import CONTEXT_SETTINGS
from .output import say
from .parameters import Duration

if TYPE_CHECKING:
    from ..registry.inventory import RunningServer

RESTART = "restart"


@click.command("break", context_settings=CONTEXT_SETTINGS)
@click.argument("server", metavar="ID")
@click.argument(
    "how", metavar="|".join((*OUTAGES, RESTART)), type=click.Choice((*OUTAGES, RESTART))
)
@click.option(
    "--for",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="Mend it after this time, such as 5s, and not at Ctrl-C only.",
)
def command(server: str, how: str, seconds: float | None) -> None:
    """Break a server of a sandbox, until Ctrl-C: to see what a program does without it.

    'sandbox list' shows the IDs of those of 'sandbox exec' and 'sandbox start'. "down" refuses
    connections, "hung" accepts them and does not answer, "full" refuses to set anything. "restart"
    empties the server and cuts its connections. The end of a test mends it, too.

    \b
        sandbox break 5a5f89de down
        sandbox break 5a5f89de hung --for 5s
    """
    if how == RESTART and seconds is not None:
        raise click.UsageError("A restart takes no --for: it is over at once.")
    servers, _ = servers_with([server])
    chosen = next(each for each in servers if each.directory.name == server)
    address = chosen.record.address
    if address is None:
        raise click.UsageError(f"{server} is not ready yet.")
    source = _source(chosen)
    if how == RESTART:
        with redirect_stderr(None):  # What the source prints is the error that it raises.
            source.restart(address)
        say(f"memcached at {address} was started anew.")
        return
    with redirect_stderr(None):
        outage = source.begin_outage(address, how)
    until = "Ctrl-C mends it" if seconds is None else f"for {seconds:g} s; Ctrl-C mends it before"
    say(f"memcached at {address} is {how}: {until}.")
    has_ended = False
    try:
        has_ended = bool(select.select([outage], [], [], seconds)[0])
    except KeyboardInterrupt:
        pass
    if has_ended:
        say(f"the sandbox of memcached at {address} has ended.")
        return
    with redirect_stderr(None):
        was_broken = outage()
    by_whom = "" if was_broken else ", by the end of a test"
    say(f"memcached at {address} was mended{by_whom}.")


def _source(server: RunningServer) -> sources.SocketSource:
    """Returns where the owner of a server listens.

    :raises click.UsageError: it does not.
    """
    if server.record.control and os.path.exists(server.control):
        return sources.SocketSource(server.control)
    owner = server.record.owner
    process = f"process {owner.pid} ({shlex.join(owner.command())})"
    raise click.UsageError(
        f"{server.directory.name} belongs to {process}, which does not listen to other ones: call "
        "down(), hung(), full() or restart() of its server there, or run it under 'sandbox exec'."
    )
