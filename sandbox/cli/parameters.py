"""Reads values on the command line."""

from __future__ import annotations

import re

import click

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
LONGEST = 7 * UNITS["d"]


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Reads a time with its unit as a number of seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Returns the seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+)([smhd])", value)
        if match is None:
            self.fail(f"{value!r} is not a time: give 45s, 90m, 8h or 2d.", param, ctx)
        seconds = float(match[1]) * UNITS[match[2]]
        if not 0 < seconds <= LONGEST:
            self.fail(f"{value!r} is out of range: give 1s to 7d.", param, ctx)
        return seconds


class Variable(click.ParamType):  # type: ignore[type-arg]
    """Reads NAME=TEMPLATE, a variable for the command's environment."""

    name = "name=template"

    def convert(
        self,
        value: str | tuple[str, str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, str]:
        """Returns the name and the template."""
        if isinstance(value, tuple):
            return value
        name, equals, template = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=TEMPLATE.", param, ctx)
        return name, template
