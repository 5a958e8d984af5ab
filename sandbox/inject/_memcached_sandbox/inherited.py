"""A run whose servers are told in the environment: that of a process that the tests have started.

Its owner is the process of the tests, which has no thread to answer at a socket: a fork of a
process with threads is not safe, and Python warns of it.
"""

from __future__ import annotations

import json
import os
import re

from .run import Run

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterable


def set_of(worker: str, sets: int) -> str:
    """Return the name of the worker's servers, when sets of them were started ahead: a number.

    Processes of a pool are numbered consecutively, from whatever number.
    """
    number = re.search(r"\d+$", worker)
    return str(int(number[0]) % sets) if number and sets else worker


class InheritedRun(Run):
    """What the environment tells of the servers."""

    def _ask(self, addresses: Iterable[str]) -> dict[str, str]:
        table = json.loads(os.environ.get("MEMCACHED_SANDBOX_STAND_INS", "{}"))
        shared = table.pop("", {})
        mains = {server: main for main, server in shared.items()}
        own = table.get(set_of(self.worker, len(table)), shared)
        wanted = {address: mains.get(address, address) for address in addresses}
        unknown = sorted({main for main in wanted.values() if main not in own})
        # One that has not been asked for by anybody is there for whoever does.
        if not shared and len(unknown) == 1 and "MEMCACHED_SANDBOX_ADDRESS" in os.environ:
            own = {unknown[0]: os.environ["MEMCACHED_SANDBOX_ADDRESS"]}
        elif unknown:
            raise self.failed(
                f"there is no server for {', '.join(unknown)} in the sandbox of the tests that "
                "started this process: name it in the CACHES of the tests' settings too, or run "
                "them under 'sandbox exec'"
            )
        return {address: own[main] for address, main in wanted.items()}
