"""Each fault a few times; `python -m tests.faults` repeats each some hundred times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from .faults import attacks, faults, flushes, inputs, suites
from .helpers.memcacheds import MainMemcached

pytestmark = pytest.mark.whole_machine

slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "harm",
    [
        # A busy machine may take longer than the second that `python -m tests.faults` allows.
        pytest.param(lambda _: faults.sigkills(9, 1, patience=20), id="sigkills"),
        pytest.param(lambda _: faults.interrupts(20, 1), id="interrupts"),
        pytest.param(lambda _: faults.starts_and_stops(100), id="starts and stops"),
        pytest.param(lambda _: faults.execs_at_once(10), id="execs at once"),
        pytest.param(lambda _: faults.sandboxes_alive(10), id="sandboxes alive"),
        pytest.param(lambda _: faults.deaths_at_the_end(3), id="deaths at the end"),
        pytest.param(lambda _: faults.command_lines(10, 1), id="command lines"),
        pytest.param(lambda _: inputs.caches(200, 1), id="caches"),
        pytest.param(lambda _: inputs.locations_alone(200, 1), id="locations"),
        pytest.param(lambda _: inputs.requests(200, 1), id="requests"),
        pytest.param(lambda _: flushes.flushes(200, 1, True), id="flushes of servers seen at rest"),
        pytest.param(lambda _: flushes.flushes(200, 1, False), id="flushes of servers asked"),
        pytest.param(lambda _: attacks.plants(20), id="plants"),
        pytest.param(lambda _: attacks.records(50, 1), id="records"),
        pytest.param(lambda _: attacks.answers(50, 1), id="answers"),
        slow(lambda main: suites.runs_of_pytest(2, 1, main), id="runs of pytest"),
        slow(lambda main: suites.runs_of_manage(1, 1, main), id="runs of manage.py"),
        slow(lambda main: suites.workers_at_once(2, main), id="workers at once"),
    ],
)
def test_fault_leaves_nothing_behind(
    harm: Callable[[MainMemcached], str], main_memcached: MainMemcached
) -> None:
    assert harm(main_memcached)
    faults.assert_nothing_left()
    main_memcached.assert_untouched()
