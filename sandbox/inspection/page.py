"""Writes what tests did to their caches into a page for browsers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import jinja2

from ..errors import printable
from . import timeline
from .names import short_names
from .traffic import Counted

if TYPE_CHECKING:
    from .traffic import Expiry, Traffic

# How many steps are drawn before a timeline is unfolded.
MOST_DRAWN = 60

# Seconds by which what never expires, or at a date, is sorted: more than any others.
LATEST = 10**12


def write_page(traffic: Traffic, file: TextIO) -> None:
    """Writes a page that needs nothing else: no network, and scripts to sort its tables only.

    :raises OSError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sandbox.inspection"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    environment.filters["seconds"] = _seconds
    tests, total = traffic.tests(), Counted()
    for counted in traffic.by_test.values():
        total.add(counted)
    stream = environment.get_template("report.html").stream(
        traffic=traffic,
        flaws=dict.fromkeys(traffic.flaws),
        patterns=traffic.shown_patterns(),
        tests=tests,
        total=total,
        names=short_names(tests),
        steps=timeline.steps,
        kinds=timeline.KINDS,
        most_drawn=MOST_DRAWN,
    )
    stream.enable_buffering(1000)
    file.writelines(stream)


def _seconds(expiry: Expiry) -> int:
    """Returns by what an expiry is sorted: the longest seconds; -1 if none is known."""
    if expiry.never or expiry.dates:
        return LATEST
    return -1 if expiry.longest is None else expiry.longest
