"""Empties the caches of this process after each test."""

from __future__ import annotations

from .run import current_run

# How many tests are under way, one within another: pytest's around unittest's, Django's around it.
_depth = 0

# Whether the outermost of them has ended an attempt, after which the caches were emptied.
_has_ended = False


class flushed_after_test:  # noqa: N801 - used as `with flushed_after_test():`
    """Runs one test in its body, and empties the caches of this process afterwards."""

    def __init__(self, keep_cache: bool = False) -> None:
        self._keep_cache = keep_cache

    def __enter__(self) -> None:
        global _depth, _has_ended  # noqa: PLW0603
        _depth += 1
        _has_ended = False

    def __exit__(self, *_: object) -> None:
        global _depth  # noqa: PLW0603
        _depth -= 1
        if _depth == 0 and not self._keep_cache and not _has_ended:
            current_run().flush()


def end_attempt(keep_cache: bool) -> None:
    """Empties the caches after an attempt at a test, which may be followed by another one.

    :raises RunError: they cannot be emptied.
    """
    global _has_ended  # noqa: PLW0603
    if _depth == 1:
        _has_ended = True
        if not keep_cache:
            current_run().flush()


def replace_depth(depth: int) -> int:
    """Sets how many tests are under way, for a run within a test; returns how many there were."""
    global _depth
    old, _depth = _depth, depth
    return old
