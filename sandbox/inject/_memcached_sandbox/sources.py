"""Gets the sandbox addresses for a process that is not the owner of its run.

The owner is asked at its control socket if it is ``sandbox exec``, or a controller of pytest-xdist.
If it is the process of the tests, its children read their environment: it has no thread that could
answer, since a fork of a process with threads is not safe, and Python warns of it.
"""

from __future__ import annotations

import _socket
import json
import os
import re
import sys
import time

from .address import Address
from .errors import RunError, printable
from .protocol import ANSWER_TIMEOUT, receive_line

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .refusals import Refusal


# Names the control socket of a controller of pytest-xdist.
OWNER = "MEMCACHED_SANDBOX_OWNER"

# Names the files that the servers of a local run print into, by address, for its children.
LOGS = "MEMCACHED_SANDBOX_LOGS"

# Seconds between attempts to connect to an owner at which many other clients wait.
SHORTEST_PAUSE = 0.001
LONGEST_PAUSE = 0.1


class SocketSource:
    """Asks the owner of the run at its control socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def worker(self) -> str:
        """Returns the name of the worker that this process is; "" if it is none."""
        return worker_of(os.environ)

    def resolve(self, addresses: Iterable[str], worker: str) -> dict[str, str]:
        """Returns the sandbox address for each main address.

        :raises RunError: the owner does not answer, or cannot start a server.
        """
        answer = self._request({"resolve": list(addresses), "worker": worker})
        resolved: dict[str, str] = answer["addresses"]
        return resolved

    def others(self, worker: str) -> list[str]:
        """Returns the addresses of the servers of the run that this worker does not use.

        :raises RunError: the owner does not answer.
        """
        others: list[str] = self._request({"others": worker})["others"]
        return others

    def report_refusal(self, refusal: Refusal) -> None:
        """Tells the owner of a refused connection.

        :raises RunError: it does not answer.
        """
        self._request({"refused": refusal._asdict()})

    def log(self, address: str) -> str:
        """Returns the path of what a server of the run prints; "" if it is none.

        :raises RunError: the owner does not answer.
        """
        path: str = self._request({"log": address})["log"]
        return path

    def tell_mains(self, addresses: Iterable[str]) -> None:
        """Tells the owner of main addresses for which no server is asked for yet.

        :raises RunError: it does not answer.
        """
        self._request({"mains": list(addresses)})

    def leads(self, refusal: Refusal, worker: str) -> str | None:
        """Returns the server that the owner leads this process to from an address.

        :returns: "" if it refuses the connection, None if it does neither.
        :raises RunError: it does not answer, or cannot start the server.
        """
        leads: str | None = self._request({"leads": refusal._asdict(), "worker": worker})["leads"]
        return leads

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                connection.settimeout(ANSWER_TIMEOUT)
                _connect(connection, self._path)
                connection.sendall(json.dumps(request).encode() + b"\n")
                if not (line := receive_line(connection, ANSWER_TIMEOUT)):
                    raise OSError("it has closed the connection")
                answer: dict[str, Any] = json.loads(line)
            finally:
                connection.close()
        except FileNotFoundError as error:
            raise failed(
                f"the sandbox of this run has ended: nobody listens at {self._path}; "
                "start another, or 'sandbox stop' if it was that of a shell"
            ) from error
        except PermissionError as error:
            raise failed(
                f"the run's sandbox is another user's than this process, which runs as user "
                f"{os.geteuid()}: run 'sandbox exec' itself as that user"
            ) from error
        except (OSError, ValueError) as error:
            raise failed(f"the run's sandbox does not answer: {error}") from error
        if "error" in answer:
            raise failed(answer["error"])
        return answer


def worker_of(environ: Mapping[str, str]) -> str:
    """Returns the name of the worker that a process is, by its variables; "" if it is none."""
    name = environ.get("MEMCACHED_SANDBOX_WORKER", "")
    xdist = environ.get("PYTEST_XDIST_WORKER")
    run = environ.get("PYTEST_XDIST_TESTRUNUID", "")
    # If sandbox exec itself runs in a worker of pytest-xdist, that worker's name is ignored.
    if xdist and not name and run != environ.get("MEMCACHED_SANDBOX_OUTER_RUN"):
        return f"{run}/{xdist}"
    return name


def _connect(connection: _socket.socket, path: str) -> None:
    """Connects to a Unix socket, also if many other clients wait at it already.

    Sums up its pauses: a test may have stopped the clock.

    :raises OSError: there is no such socket, or it has accepted no client for too long.
    """
    waited, pause = 0.0, SHORTEST_PAUSE
    while True:
        try:
            connection.connect(path)
            return
        except (BlockingIOError, ConnectionRefusedError) as error:
            # A full queue is ECONNREFUSED on macOS. On Linux, that means that the owner has ended.
            if isinstance(error, ConnectionRefusedError) and sys.platform == "linux":
                raise
            if waited > ANSWER_TIMEOUT:
                raise TimeoutError("timed out") from None
        time.sleep(pause)
        waited += pause
        pause = min(2 * pause, LONGEST_PAUSE)


class EnvironmentSource:
    """Reads what the owner of a local run has put into the environment."""

    def worker(self) -> str:
        """Returns the name of the worker that this process is; "" if it is none."""
        return os.environ.get("MEMCACHED_SANDBOX_WORKER", "")

    def resolve(self, addresses: Iterable[str], worker: str) -> dict[str, str]:
        """Returns the sandbox address for each main address.

        :raises RunError: the run has no server for one of them.
        """
        shared, sets, own = _table(worker)
        mains = {server: main for known in (*sets, shared) for main, server in known.items()}
        wanted = {address: mains.get(address, address) for address in addresses}
        unknown = sorted({main for main in wanted.values() if main not in own})
        # No address has a server yet: the first one asked for gets the server that runs already.
        if not shared and len(unknown) == 1 and "MEMCACHED_SANDBOX_ADDRESS" in os.environ:
            own = {unknown[0]: os.environ["MEMCACHED_SANDBOX_ADDRESS"]}
        elif unknown:
            raise failed(
                f"there is no server for {', '.join(unknown)} in the sandbox of the tests that "
                "started this process: name it in the CACHES of the tests' settings too, or run "
                "them under 'sandbox exec'"
            )
        return {address: own[main] for address, main in wanted.items()}

    def others(self, worker: str) -> list[str]:
        """Returns the addresses of the servers of the run that this worker does not use."""
        shared, sets, own = _table(worker)
        servers = (server for known in (shared, *sets) for server in known.values())
        return [server for server in servers if server not in own.values()]

    def log(self, address: str) -> str:
        """Returns the path of what a server of the run prints; "" if it is none."""
        place = Address(address).place
        logs: dict[str, str] = json.loads(os.environ.get(LOGS, "{}"))
        return next((logs[server] for server in logs if Address(server).place == place), "")

    def report_refusal(self, refusal: Refusal) -> None:
        """Does nothing: the owner reads the file of refusals."""


def _table(worker: str) -> tuple[dict[str, str], list[dict[str, str]], dict[str, str]]:
    """Returns sandbox addresses by main address: the parent's, those of each set, the worker's."""
    sets = json.loads(os.environ.get("MEMCACHED_SANDBOX_ADDRESSES", "{}"))
    shared = sets.pop("", {})
    return shared, [*sets.values()], sets.get(set_of(worker, len(sets)), shared)


def set_of(worker: str, sets: int) -> str:
    """Returns the name of a worker's servers if sets of them were started ahead: a number.

    Processes of a pool are numbered consecutively, from whatever number.
    """
    number = re.search(r"\d+$", worker)
    return str(int(number[0]) % sets) if number and sets else worker


def failed(reason: str) -> RunError:
    """Returns the error to raise, after it has printed its text on stderr.

    An application may swallow the exception; the line on stderr it cannot.
    """
    if sys.stderr is not None:
        try:
            # Together with its end, so that the lines of several workers do not mix.
            print(f"sandbox: {printable(reason)}\n", end="", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # It cannot be written, or is closed, and the exception is left.
    return RunError(reason)
