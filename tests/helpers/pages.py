"""Reads a page of HTML as it is without scripts."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Holds the texts of a page.

    tables: the cells of each row of each table, without the lists and paragraphs in them.
    steps: the items of each list.
    notes: the paragraphs.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.steps: list[list[str]] = []
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
        elif tag in ("th", "td", "li", "p"):
            self._texts.append("")

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
