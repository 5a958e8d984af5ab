"""Says which reports on its caches a run has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .inspector import Inspector


class Wanted(NamedTuple):
    """Says which reports a run has: lines at its end, and files unless their paths are "".

    report_top: how many rows the tables of the report have; 0 if it was not given.
    """

    leaks: bool = False
    leaks_json: str = ""
    report: bool = False
    report_top: int = 0
    report_json: str = ""
    report_html: str = ""
    findings: bool = False

    def inspector(self) -> Inspector:
        """Returns what looks at the servers of the run for that."""
        from .inspector import Inspector

        return Inspector(self)

    @property
    def tells_leaks(self) -> bool:
        """Whether leaks are told."""
        return bool(self.leaks or self.leaks_json)

    @property
    def prints_report(self) -> bool:
        """Whether operations are told in lines."""
        return bool(self.report or self.report_top)

    @property
    def counts(self) -> bool:
        """Whether operations are counted."""
        return bool(self.prints_report or self.report_json or self.report_html)
