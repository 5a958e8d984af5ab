"""Empties the caches of this process after each test."""

from __future__ import annotations

from .run import current_run

# How many tests are under way, one within another: pytest's around unittest's, Django's around it.
_depth = 0

# Whether the outermost of them has ended an attempt, after which the caches were emptied.
_has_ended = False

# Whether a test has left the caches as they are since they were last emptied.
_has_kept = False


class flushed_after_test:  # noqa: N801 - used as `with flushed_after_test():`
    """Runs one test in its body, and empties the caches of this process afterwards.

    :param name: the test that begins now; "" if each attempt at it begins otherwise.
    """

    def __init__(self, keep_cache: bool = False, name: str = "") -> None:
        self._keep_cache = keep_cache
        self._name = name

    def __enter__(self) -> None:
        global _depth, _has_ended  # noqa: PLW0603
        if _depth == 0 and self._name:
            current_run().begin_test(self._name)
        _depth += 1
        _has_ended = False

    def __exit__(self, *_: object) -> None:
        global _depth, _has_kept  # noqa: PLW0603
        _depth -= 1
        if _depth == 0 and not _has_ended:
            _has_kept = self._keep_cache
            _end(_has_kept)


def end_class() -> None:
    """Empties the caches after the tests of a class, if the last one has kept them.

    :raises RunError: they cannot be emptied.
    """
    global _has_kept  # noqa: PLW0603
    if _depth == 0 and _has_kept and current_run().flushed_after == "test":
        _has_kept = False
        current_run().end_test()


def asks_to_keep(owner: object) -> bool:
    """Returns whether a test case, a class or a function asks to keep the caches.

    ``clears_caches`` is an attribute that Django's ticket #11505 may bring.
    """
    clears_caches = getattr(owner, "clears_caches", None)
    return bool(getattr(owner, "keep_cache", False)) or clears_caches is False


def end_attempt(keep_cache: bool) -> None:
    """Empties the caches after an attempt at a test, which may be followed by another one.

    :raises RunError: they cannot be emptied.
    """
    global _has_ended  # noqa: PLW0603
    if _depth == 1:
        _end(keep_cache)
        _has_ended = True


def _end(keep_cache: bool) -> None:
    if keep_cache:
        current_run().mend()
    else:
        current_run().end_test()


def replace_depth(depth: int) -> int:
    """Sets how many tests are under way, for a run within a test; returns how many there were."""
    global _depth
    old, _depth = _depth, depth
    return old
