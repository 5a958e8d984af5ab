"""A table for people, in the width of their terminal."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return the rows below their headings, cut off where the terminal ends.

    ``width`` is in characters; None for what is no terminal, where nothing is cut off.
    """
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _cut(GAP.join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)), width)
        for line in lines
    )


def _cut(line: str, width: int | None) -> str:
    line = line.rstrip()
    return line if width is None or len(line) <= width else line[: width - 1] + "…"
