"""A table for people, in the width of their terminal."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return the rows below their headings, cut off where the terminal ends.

    ``width`` is in characters; None for what is no terminal, where nothing is cut off.
    """
    lines = [headings, *([_in_one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _cut(GAP.join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)), width)
        for line in lines
    )


def _in_one_line(cell: str) -> str:
    """A command may have anything in it: line ends, what steers a terminal, bytes of no text."""
    return "".join(character if character.isprintable() else " " for character in cell)


def _cut(line: str, width: int | None) -> str:
    line = line.rstrip()
    return line if width is None or len(line) <= width else line[: width - 3] + "..."
