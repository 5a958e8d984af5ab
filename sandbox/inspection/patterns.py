"""Folds keys that differ by numbers only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

NUMBER = re.compile(r"\d+")

# The beginning of a key that Django makes: KEY_PREFIX, and VERSION.
HEAD = re.compile(r"[^:]*:\d+:")


def patterns(keys: Iterable[str]) -> dict[str, str]:
    """Returns each key with ``#`` in place of its numbers: ``shop:1:menu:#`` for shop:1:menu:7.

    What may be KEY_PREFIX and VERSION of Django stays, if it does not vary: ``user:7:name`` and
    ``user:8:name`` are both ``user:#:name``.
    """
    keys = [*keys]
    heads: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        heads[_fold(_head(key))].add(_head(key))

    def pattern(key: str) -> str:
        head = _head(key)
        return (head if len(heads[_fold(head)]) == 1 else _fold(head)) + _fold(key[len(head) :])

    return {key: pattern(key) for key in keys}


def _head(key: str) -> str:
    match = HEAD.match(key)
    return match[0] if match else ""


def _fold(text: str) -> str:
    return NUMBER.sub("#", text)
