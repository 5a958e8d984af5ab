"""``python -m tests.faults [SEED]``: all of it, in twenty minutes. The status tells."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable

from ..helpers.memcacheds import MainMemcached
from . import attacks, faults, flushes, inputs, suites


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, MainMemcached() as main_memcached:
        os.environ.pop("XDG_RUNTIME_DIR", None)
        os.environ["TMPDIR"] = folder
        harms: list[Callable[[], str]] = [
            lambda: faults.sigkills(1000, seed),
            lambda: faults.interrupts(1000, seed),
            lambda: faults.starts_and_stops(1000),
            lambda: faults.execs_at_once(50),
            lambda: faults.sandboxes_alive(100),
            lambda: faults.deaths_at_the_end(100),
            lambda: faults.command_lines(200, seed),
            lambda: inputs.caches(20_000, seed),
            lambda: inputs.locations_alone(40_000, seed),
            lambda: inputs.requests(40_000, seed),
            lambda: flushes.flushes(20_000, seed, sees_threads=True),
            lambda: flushes.flushes(20_000, seed, sees_threads=False),
            lambda: attacks.plants(1000),
            lambda: attacks.records(2000, seed),
            lambda: attacks.answers(2000, seed),
            lambda: suites.runs_of_pytest(20, seed, main_memcached),
            lambda: suites.runs_of_manage(20, seed, main_memcached),
            lambda: suites.workers_at_once(10, main_memcached),
        ]
        for harm in harms:
            begin = time.monotonic()
            print(f"{harm()} ({time.monotonic() - begin:.0f} s)", flush=True)
        faults.assert_nothing_left()
        main_memcached.assert_untouched()
    print("the main memcached: its pid and its counters are the same", flush=True)


if __name__ == "__main__":
    main()
