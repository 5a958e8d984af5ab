"""Reads a page of HTML as it is without scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Holds the texts of a page.

    tables: the cells of each row of each table, without the lists and paragraphs in them.
    steps: the items of each list.
    kinds: their classes.
    strips: the classes of what is drawn of each list, and how many steps in a row are of it.
    bars: the percentage of each bar that stands for hits.
    notes: the paragraphs.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.steps: list[list[str]] = []
        self.kinds: list[list[str | None]] = []
        self.strips: list[list[tuple[str | None, int]]] = []
        self.bars: list[float] = []
        self.notes: list[str] = []
        self._texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "ol":
            self.steps.append([])
            self.kinds.append([])
        elif tag in ("th", "td", "li", "p"):
            self._texts.append("")
        known = dict(attributes)
        number = re.search(r"[\d.]+", known.get("style") or "")
        if tag == "li":
            self.kinds[-1].append(known["class"])
        elif known.get("class") == "strip":
            self.strips.append([])
        elif known.get("class") == "bar" and number:
            self.bars.append(float(number[0]))
        elif tag == "i" and self.strips:  # not in the legend
            self.strips[-1].append((known["class"], int(number[0]) if number else 1))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("th", "td", "li", "p"):
            return
        text = " ".join(self._texts.pop().split())
        if tag == "li":
            self.steps[-1].append(text)
        elif tag == "p":
            self.notes.append(text)
        else:
            self.tables[-1][-1].append(text)

    def handle_data(self, data: str) -> None:
        if self._texts:
            self._texts[-1] += data
