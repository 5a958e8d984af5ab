"""Spells names of tests and numbers for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..errors import printable

# Characters of the widest cell of a table.
WIDEST = 100


def short_names(tests: Iterable[str]) -> dict[str, str]:
    """Returns a short name for each test: without its module or file, if that is clear."""
    short = {test: printable(_short(test)) for test in tests}
    count = Counter(short.values())
    return {test: name if count[name] == 1 else printable(test) for test, name in short.items()}


def _short(test: str) -> str:
    path, colons, name = test.partition("::")
    if colons:
        return name if "::" in name.partition("[")[0] else f"{path.rpartition('/')[2]}::{name}"
    return ".".join(test.split(".")[-2:])


def counted(number: int, what: str) -> str:
    """Returns a number of things."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def shortened(name: str) -> str:
    """Returns a name, cut where it would make a table too wide."""
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 3]}..."


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: its first column on the left, the others on the right."""
    rows = [[shortened(first), *others] for first, *others in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join(
            f"{cell:>{width}}" if number else f"{cell:{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
