"""Runs a command with its own memcached: ``sandbox exec``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from typing import TYPE_CHECKING

import click

from ..errors import SandboxError
from ..inject import refusals
from ..server.options import BY_KEYWORD
from .guards import Guards
from .options import (
    CONTEXT_SETTINGS,
    SandboxOption,
    inspection_options,
    sandbox_of,
    sandbox_options,
    table_option,
    wanted_of,
)
from .output import FAILURE, ExitWatcher, say, say_as_it_is

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..run.control import Control
    from ..run.kernel_guard import KernelGuard
    from ..run.sandbox import Sandbox
    from ..run.summary import Summary
    from ..server.memcached import Memcached
    from .child import Command
    from .options import SandboxOptions


UNUSED = "no program used MEMCACHED_SANDBOX_ADDRESS"

UNUSED_BY_DJANGO = (
    f"no Django reached it, and {UNUSED}; if the command runs Django, its Python may lack "
    "PYTHONPATH or MEMCACHED_SANDBOX_*, as in PEX files and under 'python -I', 'env -i' and "
    "'su -': pass them on"
)


@click.command("exec", context_settings={"allow_interspersed_args": False, **CONTEXT_SETTINGS})
@sandbox_options
@table_option(BY_KEYWORD["strict"])
@table_option(BY_KEYWORD["quiet"])
@inspection_options
@click.option(
    "--redirect",
    cls=SandboxOption,
    is_flag=True,
    help="Lead connections to the main memcached to the sandbox, whatever the program.",
)
@click.option(
    "--kernel-guard/--no-kernel-guard",
    cls=SandboxOption,
    default=None,
    help="Guard all programs, not only Python; on with --strict and --redirect.",
)
@click.option(
    "-v",
    "--verbose",
    cls=SandboxOption,
    is_flag=True,
    help="Print the address and the command of each server.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    strict: bool,
    quiet: bool,
    redirect: bool,
    kernel_guard: bool | None,
    verbose: bool,
    command: tuple[str, ...],
    **options: Unpack[SandboxOptions],
) -> int:
    """Run COMMAND with its own memcached, which ends with COMMAND.

    In every Python process of COMMAND, Django's CACHES are pointed at it: one server for each
    address, one set of servers for each parallel worker. They are emptied after each test. Other
    programs read MEMCACHED_SANDBOX_ADDRESS and MEMCACHED_SANDBOX_PID.

    On Linux the kernel guards programs in any language, with --strict or --redirect.

    The exit status is COMMAND's; 125 if the sandbox failed, 126 if COMMAND cannot be executed, 127
    if it is not found.

    Each option can also be set in the environment: --memory as MEMCACHED_SANDBOX_MEMORY.

    \b
        sandbox exec -- ./manage.py test
        sandbox exec -m 128 --env 'CACHE_URL=pymemcache://{address}' -- pytest -x
        sandbox exec --redirect -- ./run-tests.sh
    """  # fmt: skip
    with sandbox_of(options) as sandbox:
        guards = Guards.of(redirect, kernel_guard, strict, options["unix"])
        wanted = wanted_of(options["no_inject"])
        sandbox.inspector = wanted.inspector() if wanted else None
        launched = sandbox.launch(options["servers"])
        from ..run.summary import Summary  # while the servers come up

        summary = Summary("--memory", strict, quiet)
        if wanted:
            summary.expect(wanted)
        child, status = _run(sandbox, launched, command, options, guards, summary, verbose)
        with child.errors:
            sandbox.stop()
    child.errors.report()
    child.die_as_it_did()
    return status


def _run(
    sandbox: Sandbox,
    launched: Sequence[Memcached],
    command: Sequence[str],
    options: SandboxOptions,
    guards: Guards,
    summary: Summary,
    verbose: bool,
) -> tuple[Command, int]:
    """Runs the command, prints the summary, and returns the command with the exit status."""
    # While the servers come up:
    from ..run.control import Control
    from .child import hold_signals
    from .variables import variables_of

    for server in launched:
        server.wait()
        if verbose:
            import shlex

            say(f"memcached at {server.address}, pid {server.pid}: {shlex.join(server.command)}")
    mask = hold_signals()
    injects = not options["no_inject"]
    kernel_guard = guards.kernel_guard(sandbox, injects)
    control = Control(sandbox, sandbox.control_directory.socket, kernel_guard)
    inspector = sandbox.inspector
    variables = variables_of(
        *(options, os.environ, launched, control.path, guards.leads), marks=inspector is not None
    )
    watcher = ExitWatcher(sandbox)
    _tell_outer_run()
    with kernel_guard or nullcontext(), inspector.reading() if inspector else nullcontext():
        env = {**os.environ, **variables}
        child = _start(command, env, mask, guards, kernel_guard, injects)
        status = child.wait(on_child=watcher.check)
        with child.errors:
            control.stop()
        if kernel_guard is not None:
            with child.errors:
                kernel_guard.stop()
    with child.errors:
        running = watcher.running()
        if summary.counts_use:
            summary.add_servers(running)
    with child.errors:
        if inspector is not None:
            summary.add_followers(inspector.finish())
            summary.write_files()
        _tell(summary, sandbox, launched, control, guards, kernel_guard, injects)
    if summary.has_failed:
        # A command that failed may have ended before it used the sandbox.
        status = FAILURE if refusals.faults(summary.refusals) else status or FAILURE
    return child, status


def _tell(
    summary: Summary,
    sandbox: Sandbox,
    launched: Sequence[Memcached],
    control: Control,
    guards: Guards,
    kernel_guard: KernelGuard | None,
    injects: bool,
) -> None:
    """Prints the summary, with what the guards have to add to it."""
    summary.refusals += control.refusals
    if kernel_guard is not None and kernel_guard.is_on:
        guards.tell(summary, kernel_guard, control, launched)
    hint = guards.hint(kernel_guard)
    if not control.was_asked and not summary.shows_use(sandbox.servers):
        summary.report_unused(UNUSED_BY_DJANGO if injects else UNUSED, hint)
    elif hint and any(refusal.kind == refusals.MAIN for refusal in summary.refusals):
        summary.add_note(hint)
    for line in summary.lines():
        say_as_it_is(line.titled("sandbox"))


def _start(
    command: Sequence[str],
    env: Mapping[str, str],
    mask: set[int],
    guards: Guards,
    kernel_guard: KernelGuard | None,
    injects: bool,
) -> Command:
    """Starts the command, without the guard of the kernel if there is none to be had."""
    from .child import Command

    if kernel_guard is not None:
        try:
            return Command(command, env, mask, kernel_guard.spawn)
        except SandboxError as error:
            guards.explain_absence(error, injects)
    return Command(command, env, mask)


def _tell_outer_run() -> None:
    """Tells the run that this process is in, if any, that the command has another sandbox.

    If that run has ended, it has no need to know.
    """
    if not (control := os.environ.get("MEMCACHED_SANDBOX_CONTROL")):
        return
    from ..errors import RunError
    from ..inject import sources

    with redirect_stderr(None), suppress(RunError):
        sources.SocketSource(control).report_refusal(refusals.Refusal("", "", "", refusals.NESTED))
