"""Calls whose results are not lost should Ctrl-C come while they are under way.

Python raises KeyboardInterrupt when such a call returns, before its result is stored or passed on.
What was opened or started by then nobody would know of.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


def store(results: list[Result], function: Callable[..., Result], *arguments: Any) -> None:
    """Call a function and append what it returns to the list: both, or neither.

    The function has to be one in C. So is extend(), which calls it and stores what it returns.
    """
    results.extend(itertools.starmap(function, [arguments]))


def store_all(
    results: list[Result], function: Callable[..., Iterable[Result]], *arguments: Any
) -> None:
    """Do the same with a function that returns several things, which are appended one by one."""
    results.extend(itertools.chain.from_iterable(itertools.starmap(function, [arguments])))


def close(descriptors: list[int], count: int) -> None:
    """Close the first ``count`` descriptors of a list and take them out of it: both, or neither.

    Raises OSError when it is none that can be closed; it is out of the list then, too.
    """
    taken = map(list.pop, itertools.repeat(descriptors, count), itertools.repeat(0))
    collections.deque(map(os.close, taken), maxlen=0)


def close_all(descriptors: list[int]) -> None:
    """Do the same with all of them."""
    close(descriptors, len(descriptors))
