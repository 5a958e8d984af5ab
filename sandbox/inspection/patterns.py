"""Folds keys that differ by numbers only."""

from __future__ import annotations

import re
from collections.abc import Iterable

# UUIDs, digests and session keys: 16 letters and digits or more, of which one is a digit; and other
# numbers.
NUMBER = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=[A-Za-z]*\d)[A-Za-z\d]{16,}|\d+"
)

# The beginning of a key that Django makes, KEY_PREFIX and VERSION; and that of a folded one.
HEAD = re.compile(r"[^:]*:\d+:")
FOLDED_HEAD = re.compile(r"[^:]*:#:")

# How many keys are remembered with what they are folded to, and how many heads.
MOST_KEYS = 5_000


class Patterns:
    """Folds keys, and knows what their patterns have in common.

    ``shop:1:menu:7`` and ``shop:1:menu:8`` are ``shop:1:menu:#``. What may be Django's KEY_PREFIX
    and VERSION stays if it does not vary: ``user:7:name`` and ``user:8:name`` are ``user:#:name``.
    """

    def __init__(self) -> None:
        self._folded: dict[str, str] = {}
        self._heads: dict[str, str | None] = {}  # None if it varies

    def fold(self, key: str) -> str:
        """Returns what all keys of a pattern have in common: its name for `shown`."""
        folded = self._folded.get(key)
        if folded is None:
            folded = _fold(key)
            if head := HEAD.match(key):
                self._add_head(_fold(head[0]), head[0])
            if len(self._folded) >= MOST_KEYS:
                self._folded.clear()
            self._folded[key] = folded
        return folded

    def shown(self, folded: str) -> str:
        """Returns a pattern as people should see it, once all keys are known."""
        match = FOLDED_HEAD.match(folded)
        head = self._heads.get(match[0]) if match else None
        return head + folded[match.end() :] if match and head else folded

    def heads(self) -> dict[str, str | None]:
        """Returns what another process needs to know, for `add_heads`."""
        return self._heads

    def add_heads(self, heads: dict[str, str | None]) -> None:
        """Learns what keys another process has folded."""
        for folded, head in heads.items():
            self._add_head(folded, head)

    def _add_head(self, folded: str, head: str | None) -> None:
        if folded in self._heads or len(self._heads) < MOST_KEYS:
            is_same = self._heads.get(folded, head) == head
            self._heads[folded] = head if is_same else None


def patterns(keys: Iterable[str]) -> dict[str, str]:
    """Returns the pattern of each key."""
    known = Patterns()
    folded = {key: known.fold(key) for key in keys}
    return {key: known.shown(pattern) for key, pattern in folded.items()}


def _fold(text: str) -> str:
    return NUMBER.sub("#", text)
