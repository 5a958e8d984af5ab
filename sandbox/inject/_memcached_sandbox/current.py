"""The one run that this process is in."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from .run import Run

_run: Run | None = None


def run() -> Run:
    """Return it. It is the one that the environment tells of if nobody has said otherwise."""
    global _run  # noqa: PLW0603
    if _run is None:
        if "MEMCACHED_SANDBOX_CONTROL" in os.environ:
            from .controlled import ControlledRun

            _run = ControlledRun()
        else:
            from .inherited import InheritedRun

            _run = InheritedRun()
    return _run


def known() -> Run | None:
    """Return it if anyone has asked for it."""
    return _run


def replace(run: Run | None) -> Run | None:
    """Have this process be in another one, or in what its environment says; return the old one."""
    global _run
    old, _run = _run, run
    return old
