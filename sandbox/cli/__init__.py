"""The command ``sandbox``: parses, prints, exits.

Errors are one line on stderr. The exit status is 2 for wrong usage and 125 when the sandbox itself
failed, so that neither is taken for the status of the command that ``exec`` runs.
"""

from __future__ import annotations

import sys

import click

from ..errors import OptionError, SandboxError
from .exec import FAILURE, exec_

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="memcached-sandbox", message="memcached-sandbox %(version)s")
def sandbox() -> None:
    """A real, short-lived memcached for each test run.

    \b
        sandbox exec -- ./manage.py test
    """


sandbox.add_command(exec_)


def main(prog_name: str = "sandbox") -> None:
    """Run the command line and exit."""
    try:
        status = sandbox.main(prog_name=prog_name, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else prog_name
        fail(f"{error.format_message()} See '{path} --help'.", USAGE_STATUS)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except OptionError as error:
        fail(f"{error}.", USAGE_STATUS)
    except SandboxError as error:
        fail(f"{error}.", FAILURE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED_STATUS)
    sys.exit(status)


def fail(line: str, status: int) -> None:
    click.echo(f"sandbox: {line}", err=True)
    sys.exit(status)
