"""``python -m tests.faults [SEED]``: all of it, which takes a few minutes. The status tells."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time

from . import faults


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, faults.foreign_memcached():
        os.environ.pop("XDG_RUNTIME_DIR", None)
        os.environ["TMPDIR"] = folder
        for harm in (
            lambda: faults.sigkills(200, seed),
            lambda: faults.interrupts(200, seed),
            lambda: faults.starts_and_stops(1000),
            lambda: faults.execs_at_once(50),
            lambda: faults.sandboxes_alive(100),
            lambda: faults.fuzz(500, seed),
        ):
            begin = time.monotonic()
            print(f"{harm()} ({time.monotonic() - begin:.0f} s)", flush=True)
        faults.assert_nothing_left()
    print("a foreign memcached: its pid and its counters are the same", flush=True)


if __name__ == "__main__":
    main()
