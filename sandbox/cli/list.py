"""Lists the servers of a user's sandboxes: ``sandbox list``."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from typing import Any

import click

from ..registry import inventory
from ..registry.run_directory import where
from .output import say, table

HEADINGS = ["ID", "ADDRESS", "PID", "VERSION", "MEMORY", "ITEMS", "AGE", "COMMAND"]
MB = 1024 * 1024


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def command(as_json: bool) -> None:
    """List the servers of your sandboxes.

    They are looked for where this environment puts them: a shell with another TMPDIR has others.
    VERSION is memcached's, MEMORY the size of all items and the cap, or "down", "hung" or "full" in
    an outage that was asked for, AGE the time since the start.
    COMMAND is the owner: the server ends with this process.

    \b
        sandbox list
        sandbox list --json
    """
    servers, unknown = inventory.servers()
    entries = [*map(_entry, servers, inventory.ask(servers))]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
    elif entries:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(table(HEADINGS, [_row(entry) for entry in entries], width))
    for line in unknown:
        say(f"{line}.")
    if not entries and not unknown and not as_json:
        say(f"no sandbox runs {where()}.")


def _entry(server: inventory.RunningServer, answer: inventory.Answer | None) -> dict[str, Any]:
    record = server.record
    return {
        "id": server.directory.name,
        "address": record.address,
        "outage": record.outage or None,
        "pid": record.server.pid,
        "memory": record.memory_mb * MB,
        "version": answer and answer.version,
        "memory_used": answer and answer.memory_used,
        "items": answer and answer.items,
        "age": None if (age := record.server.age()) is None else round(age, 1),
        "owner": {"pid": record.owner.pid, "command": record.owner.command()},
    }


def _row(entry: dict[str, Any]) -> list[str]:
    used, cap = entry["memory_used"], entry["memory"] // MB
    return [
        entry["id"],
        entry["address"] or "not yet",
        str(entry["pid"]),
        entry["version"] or "",
        entry["outage"] or ("no answer" if used is None else f"{used / MB:.1f} of {cap} MB"),
        "" if used is None else f"{entry['items']:,}",
        "" if entry["age"] is None else _age(entry["age"]),
        shlex.join(entry["owner"]["command"]),
    ]


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"
