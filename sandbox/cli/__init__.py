"""Runs the command ``sandbox``: parses, prints, exits.

Errors are one line on stderr. The exit status is 2 for wrong usage and 125 when the sandbox itself
failed, so that neither is taken for the status of the command that ``exec`` runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

import click

from ..errors import SandboxError, explain_limit
from .output import FAILURE, INTERRUPTED, USAGE, print_statements, say, standard_streams

# The commands in the order of their use. Each is a module of that name; "break" is a keyword.
COMMANDS = ("exec", "start", "stop", "list", "break", "doctor", "install")


class Commands(click.Group):
    """Loads no command but the one that is called: ``sandbox exec`` is on a hot path."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Returns the commands in the order of their use."""
        return [*COMMANDS]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Imports a command and returns it; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = "break_" if cmd_name == "break" else cmd_name
        command: click.Command = import_module(f".{module}", __package__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that is called, as click does; proposes another if there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            from .mistakes import proposal

            problem = f"No such command {args[0]!r}"
            meant = proposal(args, was_tried=False)
            if not meant and (close := get_close_matches(args[0], COMMANDS, 1)):
                meant = f": did you mean {close[0]!r}?"
            raise click.UsageError(f"{problem}{meant}", ctx) from error


@click.group(
    cls=Commands,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="memcached-sandbox", message="memcached-sandbox %(version)s")
@click.pass_context
def sandbox(context: click.Context) -> None:
    """Give each test run a real, short-lived memcached.

    \b
        sandbox exec -- ./manage.py test
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(prog_name: str = "sandbox") -> None:
    """Runs the command line and exits."""
    with standard_streams(), _failing_eval():
        try:
            returned = sandbox.main(prog_name=prog_name, standalone_mode=False)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else prog_name
            message = error.format_message()
            stop = "" if message.endswith((".", "?")) else "."
            fail(f"{message}{stop} See '{path} --help'.", USAGE)
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except SandboxError as error:
            fail(f"{error}.", FAILURE)
        except OSError as error:
            if not (limit := explain_limit(error)):
                raise
            fail(f"{limit}.", FAILURE)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        sys.exit(returned)


@contextmanager
def _failing_eval() -> Iterator[None]:
    """Prints ``false`` if ``sandbox start`` fails: a shell that evaluates its output fails as well.

    With nothing to evaluate, its next command would run on the main memcached.
    """
    try:
        yield
    except BaseException as error:
        has_failed = not isinstance(error, SystemExit) or error.code
        if has_failed and sys.argv[1:2] == ["start"] and not sys.stdout.isatty():
            with suppress(SandboxError, OSError):  # It cannot be written: the first error counts.
                print_statements("false\n")
        raise


def fail(line: str, exit_status: int) -> None:
    """Prints an error and exits."""
    say(line)
    sys.exit(exit_status)
