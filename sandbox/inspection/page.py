"""Writes the report as a page for browsers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ..errors import printable
from .names import counted, short_names
from .timeline import KINDS, Step, unpacked

if TYPE_CHECKING:
    from .traffic import Expiry, Traffic

# How many steps are drawn before a timeline is unfolded.
MOST_DRAWN = 60

# Seconds by which an expiry that is never, or a date, is sorted: more than any others.
LATEST = 10**12


class Drawn(NamedTuple):
    """Describes how a timeline is shown.

    strip: the kinds of the first steps, each with how many of them are in a row.
    is_cut: there are more steps than the strip has.
    """

    address: str
    steps: list[Step]
    strip: list[tuple[str, int]]
    is_cut: bool


def write_page(traffic: Traffic, timelines: Mapping[str, Sequence[str]], file: TextIO) -> None:
    """Writes a page that needs nothing else: no network, and scripts to sort its tables only.

    :param timelines: those of each test, packed.
    :raises OSError: the file cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sandbox.inspection"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    environment.filters["seconds"] = _seconds
    tests = traffic.tests()
    dropped = sum(traffic.by_test[test].operations > 0 for test in tests if not timelines.get(test))
    stream = environment.get_template("report.html").stream(
        traffic=traffic,
        flaws=dict.fromkeys(traffic.flaws),
        patterns=traffic.shown_patterns(),
        tests=tests,
        total=traffic.total(),
        dropped=counted(dropped, "test") if dropped else "",
        names=short_names(tests),
        timelines_of=lambda test: [_drawn(*unpacked(each)) for each in timelines.get(test, ())],
        kinds=KINDS,
    )
    stream.enable_buffering(1000)
    file.writelines(stream)


def _drawn(address: str, steps: list[Step]) -> Drawn:
    kinds = groupby(step.kind for step in steps[:MOST_DRAWN])
    strip = [(kind, len([*alike])) for kind, alike in kinds]
    return Drawn(address, steps, strip, is_cut=len(steps) > MOST_DRAWN)


def _seconds(expiry: Expiry) -> int:
    """Returns the longest seconds, to sort by; -1 if none is known."""
    if expiry.never or expiry.dates:
        return LATEST
    return -1 if expiry.longest is None else expiry.longest
