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
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import Any

    from .refusals import Refusal


# Names the control socket of a controller of pytest-xdist.
OWNER = "MEMCACHED_SANDBOX_OWNER"

# Names the files that the servers of a local run print into, by address, for its children.
LOGS = "MEMCACHED_SANDBOX_LOGS"

# The name of the file beside the control socket that lists outages: once there were some, it is
# replaced whenever one begins or ends, or a server is started anew.
BROKEN = "broken"

# Seconds between attempts to connect to an owner at which many other clients wait.
SHORTEST_PAUSE = 0.001
LONGEST_PAUSE = 0.1


class SocketSource:
    """Asks the owner of the run at its control socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last_outage: tuple[int, int] | None = None  # that this process knows of

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

    def outage(self, address: str) -> str:
        """Returns the outage that a server of the run is in; "" if it is in none."""
        return _outages(self._broken).get(Address(address).place, "")

    def begin_outage(self, address: str, kind: str) -> RemoteOutage:
        """Has the owner begin an outage, which it ends when this process has ended, too.

        :returns: the function that ends it, and tells whether it had to.
        :raises RunError: the owner does not answer, or refuses to.
        """
        connection, _ = self._open({"outage": kind, "server": address})
        return RemoteOutage(connection)

    def restart(self, address: str) -> None:
        """Has the owner kill a server, and start it anew.

        :raises RunError: the owner does not answer, or refuses to.
        """
        self._request({"restart": address})

    def mend(self, addresses: Collection[str]) -> bool:
        """Has the owner end the outages of servers; returns whether the run has had any since.

        :raises RunError: the owner does not answer, or cannot start a server again.
        """
        # After each test: to look at the file takes a microsecond.
        if (state := _state(self._broken)) == self._last_outage:
            return False
        if _outages(self._broken):
            self._request({"mend": list(addresses)})
            state = _state(self._broken)
        self._last_outage = state
        return True

    @property
    def _broken(self) -> str:
        return os.path.join(os.path.dirname(self._path), BROKEN)

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
        connection, answer = self._open(request)
        connection.close()
        return answer

    def _open(self, request: dict[str, Any]) -> tuple[_socket.socket, dict[str, Any]]:
        try:
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                connection.settimeout(ANSWER_TIMEOUT)
                _connect(connection, self._path)
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = _answer(connection)
            except BaseException:
                connection.close()
                raise
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
            connection.close()
            raise failed(answer["error"])
        if "problem" in answer:  # of the test that has asked, which may expect it
            connection.close()
            raise RunError(answer["problem"])
        return connection, answer


def _answer(connection: _socket.socket) -> dict[str, Any]:
    """Receives an answer of the owner.

    :raises OSError: there is none.
    :raises ValueError: it is no JSON.
    """
    if not (line := receive_line(connection, ANSWER_TIMEOUT)):
        raise OSError("it has closed the connection")
    answer: dict[str, Any] = json.loads(line)
    return answer


class RemoteOutage:
    """Ends an outage that the owner has begun for this process, when it is called."""

    def __init__(self, connection: _socket.socket) -> None:
        self._connection = connection
        self._begun_in = os.getpid()

    def fileno(self) -> int:
        """Returns the descriptor of the connection, which can be read if the owner has ended."""
        return self._connection.fileno()

    def __call__(self) -> bool:
        """Has the owner end it; returns whether it had to. Does nothing in a fork.

        :raises RunError: the owner does not answer, or cannot start the server again.
        """
        if os.getpid() != self._begun_in:
            return False
        try:
            self._connection.sendall(b"end\n")
            answer = _answer(self._connection)
        except (OSError, ValueError) as error:
            raise failed(f"the run's sandbox does not answer: {error}") from error
        finally:
            self._connection.close()
        if "problem" in answer:
            raise RunError(answer["problem"])
        mended: bool = answer["mended"]
        return mended


def _state(path: str) -> tuple[int, int] | None:
    """Returns what is another one whenever a file was replaced; None if there is none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, PermissionError):  # another user's, who cannot ask, either
        return None
    return status.st_ino, status.st_mtime_ns


def _outages(path: str) -> dict[str, str]:
    """Returns the outages of the servers of a run, by their places."""
    try:
        with open(path, "rb") as file:
            outages: dict[str, str] = json.loads(file.read())
    except FileNotFoundError:
        return {}
    return outages


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

    def outage(self, address: str) -> str:  # noqa: ARG002
        """Returns "": the process of the tests does not tell its children of outages."""
        return ""

    def begin_outage(self, address: str, kind: str) -> Callable[[], bool]:  # noqa: ARG002
        """Refuses: the process of the tests does not listen to its children.

        :raises RunError: always.
        """
        if self.log(address):
            raise RunError(
                f"memcached at {address} belongs to the process that runs the tests, and only that "
                "one can break it: do it there, or run the tests under 'sandbox exec'"
            )
        raise RunError(f"memcached at {address} cannot be broken: this run did not start it")

    def restart(self, address: str) -> None:
        """Refuses as `begin_outage` does.

        :raises RunError: always.
        """
        self.begin_outage(address, "")

    def mend(self, addresses: Collection[str]) -> bool:  # noqa: ARG002
        """Does nothing: the process of the tests mends what it has broken."""
        return False


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
