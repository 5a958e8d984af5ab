"""Records what breaks the isolation of a run, or leaves it unused, and passes it on in a file.

The file leads to the process of the tests. Most of it is refused connections.
"""

from __future__ import annotations

import os
from collections import namedtuple

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterable

# The variable that names the file, if the process of the tests asks for that.
VARIABLE = "MEMCACHED_SANDBOX_REFUSALS"

# The kinds. Refused: connecting to a main memcached, or to a server of another process of the run.
MAIN = "main"
CAPTURED = "captured"
# A worker has inherited an open connection to a server of its parent.
OPEN = "open"
# The server of a parent was used while its workers ran, by one of them or by another process. How
# often stands in place of "file:line".
USED = "used"
# A server was flushed before it came to rest. It is no fault of the test: the machine may be slow.
RESTLESS = "restless"

# A memcached alias of CACHES is excluded, and uses an address of its own.
EXCLUDED = "excluded"
# CACHES has no memcached alias. The class of each alias stands in place of the address.
OTHER = "other"
# A process that has not been led to the servers has flushed them. Over how many connections, and
# with how many bytes, stands in place of "file:line", or "" if it may end without a word.
FLUSHED = "flushed"
# The command is one of `sandbox exec`, which has a sandbox of its own for what it runs.
NESTED = "nested"
# A process has PYTHONPATH, but lacks other variables of the run, which the address names.
LOST = "lost"
# A Python was started without what makes it a process of the run. The address tells how.
CHILD = "child"

# By the guard of the kernel, which sees all programs: connecting to a main memcached was refused,
# or led to a server of the run, or from the server of another process to the worker's own; or a
# process could not be looked at. The process stands after "file:line", or in its place.
BARRED = "barred"
# A connection was refused because the guard has failed. The address tells why.
BROKEN = "broken"
LED = "led"
LED_HOME = "led home"
UNSEEN = "unseen"

# The kinds that a test, or a strict run, fails for.
FAULTS = (MAIN, CAPTURED, OPEN, BARRED, BROKEN)

# The kinds that a quiet run does not tell.
ROUTINE = (EXCLUDED, LED, LED_HOME)

# The kinds that only say why nothing, or what, used the servers of a run.
NOTES = (OTHER, FLUSHED, NESTED, LOST)

# A connection: its address, its alias or "", from where, as "file:line", and its kind.
Refusal = namedtuple("Refusal", ("address", "alias", "at", "kind"), defaults=(MAIN,))


def faults(taken: Iterable[Refusal]) -> list[Refusal]:
    """Returns those that a test, or a strict run, fails for."""
    return [refusal for refusal in taken if refusal.kind in FAULTS]


def append(path: str, refusal: Refusal) -> None:
    """Appends one; several processes may do so at once."""
    import json

    try:
        with open(path, "ab", buffering=0) as lines:
            lines.write(json.dumps(refusal).encode() + b"\n")
    except FileNotFoundError:
        pass  # The run has ended, and nobody is there to be told.
    except OSError as error:
        from .sources import failed

        failed(f"the run cannot be told of a report: {error}")  # The program goes on.


def take(path: str) -> list[Refusal]:
    """Returns what was appended since the last time."""
    import json

    taken = f"{path}.taken"
    try:
        os.rename(path, taken)
    except FileNotFoundError:
        return []
    with open(taken, encoding="utf-8") as lines:
        refusals = [Refusal(*json.loads(line)) for line in lines]
    os.unlink(taken)
    return refusals
