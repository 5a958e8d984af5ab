"""A call whose result is not lost should Ctrl-C come while it is under way.

Python raises KeyboardInterrupt when such a call returns, before its result is stored. What was
opened or started by then nobody would know of.
"""

from __future__ import annotations

import itertools
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
