"""A few of each of the faults; `python -m tests.faults` does hundreds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .faults import faults


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda: faults.sigkills(12, 1), id="sigkills"),
        pytest.param(lambda: faults.interrupts(20, 1), id="interrupts"),
        pytest.param(lambda: faults.starts_and_stops(100), id="starts and stops"),
        pytest.param(lambda: faults.execs_at_once(10), id="execs at once"),
        pytest.param(lambda: faults.sandboxes_alive(10), id="sandboxes alive"),
        pytest.param(lambda: faults.fuzz(60, 1), id="fuzz"),
    ],
)
def test_fault(harm: Callable[[], str]) -> None:
    with faults.foreign_memcached():
        assert harm()
    faults.assert_nothing_left()
