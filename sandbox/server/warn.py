"""Warns with the line of the user's code that has called this package."""

from __future__ import annotations

import sys
import warnings

# Whose frames lie between that line and the warning: a context manager has one of contextlib.
OWN_MODULES = (__package__.partition(".")[0], "contextlib")


def warn_user(text: str) -> None:
    """Warns of operations that may be lost, as a RuntimeWarning."""
    level, frame = 1, sys._getframe()
    while frame.f_globals.get("__name__", "").partition(".")[0] in OWN_MODULES:
        if frame.f_back is None:
            break
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)
