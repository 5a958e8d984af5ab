"""Asks a memcached at an address for counters and items, and empties it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..errors import OptionError, ProtocolError, RunError, ServerError

if TYPE_CHECKING:
    from pymemcache.client.base import Client

    from ..inject import protocol
    from .counts import Counts
    from .outages import Counters
    from .trace import Operations

# How long a server that runs may take to answer, in seconds.
ANSWER_TIMEOUT = 5.0

NOT_RUNNING = "this server does not run: start() it, or use it in a with statement"


class Item(NamedTuple):
    """Describes an item: its key, its size in bytes, and when it expires, as time.time() does."""

    key: str
    size: int
    expires: float | None


class Server:
    """Talks to a memcached that runs at ``address``, spelled as Django's LOCATION spells it.

    :param address: that of a memcached that runs.
    :raises OptionError: the address is none.
    :raises ServerError: by all methods: it does not answer.
    """

    __module__ = "sandbox"  # where its users find it

    _crawl = False
    _pid_and_threads: tuple[int, int] | None = None  # once it was asked for them

    def __init__(self, address: str | None) -> None:
        self._address = None if address is None else _parsed(address)

    @property
    def address(self) -> str:
        """Its address, as Django's LOCATION spells it: ``host:port`` or ``unix:/path``."""
        if self._address is None:
            raise ServerError(NOT_RUNNING)
        return self._address

    def client(self) -> Client:
        """Returns a new connected pymemcache Client; closing it is up to you."""
        from pymemcache.client.base import Client
        from pymemcache.exceptions import MemcacheError

        # pymemcache reads an answer without an end until the memory is used up.
        self.stats()
        # Without a delay: a get after a set that is not answered would wait 40 ms for the kernel.
        client = Client(
            self.address, timeout=ANSWER_TIMEOUT, connect_timeout=ANSWER_TIMEOUT, no_delay=True
        )
        with self._explained((OSError, MemcacheError)), ExitStack() as stack:
            stack.callback(client.close)
            client.version()
            stack.pop_all()
        return client

    def flush(self) -> None:
        """Forgets every item, once what clients sent before is executed.

        What is set from now on stays. It cannot see what the kernel of a client holds back: a
        client over TCP needs TCP_NODELAY, as that of `client` has it.

        Warns if the server does not come to rest within a second, since a client writes on.
        """
        from ..inject import backends, emptying

        address = self.address
        self._refuse_in("down", "hung", "full")
        emptier = emptying.Emptier(ANSWER_TIMEOUT, self._sees_threads())
        with self._explained(), closing(emptier):
            restless = emptier.empty([address], self._crawl)
        if backends.are_stale:
            backends.renew()
        if restless:
            from .warn import warn_user

            warn_user(f"memcached at {address} {emptying.RESTLESS}")

    def trace(self) -> AbstractContextManager[Operations]:
        """Traces the operations of all clients, in any process and language, while its body lasts.

            with server.trace() as operations:
                client.get("key")
            assert [*map(str, operations)] == ["get key miss"]

        They are listed when the body has ended, and after ``operations.sync()``; those that
        memcached refuses, too, but none of this package's own. While it lasts, an operation costs
        up to three times as much. By ``verbosity 2`` of memcached, which logs into its output file.

        A client over TCP needs TCP_NODELAY, as that of `client` has it: else its kernel holds
        operations back, and they come too late for this trace.

        :raises ServerError: this run did not start the server: its output is not known.
        """
        from .trace import trace

        return trace(self)

    def counting(self) -> AbstractContextManager[Counts]:
        """Counts the operations of all clients while its body lasts, by memcached's own counters.

            with server.counting() as counts:
                client.get("key")
            assert counts.misses == 1

        It costs nothing in between. What clients have sent is executed first, as before a flush,
        and a client over TCP needs TCP_NODELAY. A client that says ``stats reset`` spoils it.
        """
        from .counts import counting

        return counting(self)

    def down(self) -> AbstractContextManager[None]:
        """Refuses connections while its body lasts, and has cut those that were open.

            with server.down():
                assert client.get("/").status_code == 200

        Afterwards the same address answers again, empty: a restart, as clients see it. Meanwhile
        nobody else can take the port.

        At the end of each outage the caches of Django in this process get new clients. Those that
        the project has made itself are its own to renew: they take the server for dead for a while,
        pylibmc for 3 seconds, and in its binary mode until it is left alone for as long, libmc and
        bmemcached for 5, python-memcached for 30, pymemcache's HashClient for 1. pymemcache's
        Client connects again at once.

        An outage ends with its test, whatever happens: the caches are emptied then. Only the
        process that has started a server can break it, and ``sandbox exec`` for all of its run.

        :raises ServerError: another process of tests owns it, it is in an outage already, or this
            system cannot hold its port, as macOS cannot: a Unix socket serves there.
        """
        return self._outage("down")

    def hung(self) -> AbstractContextManager[None]:
        """Accepts connections while its body lasts, and answers nothing. By SIGSTOP.

        Afterwards it goes on where it was, and nothing is lost. For clients see `down`. Without a
        timeout of its own a client waits as long as the outage lasts.

        :raises ServerError: as `down` does, or this system does not stop it.
        """
        return self._outage("hung")

    def full(self) -> AbstractContextManager[None]:
        """Refuses to set anything while its body lasts: ``SERVER_ERROR out of memory``.

        So it is in production with ``-M``, or where a slab class gets no memory. It begins and ends
        with an empty server, for which `down` tells what clients need.

        :raises ServerError: as `down` does, or its ``args`` keep it from being filled.
        """
        return self._outage("full")

    def _outage(self, kind: str) -> AbstractContextManager[None]:
        from .outages import BrokenServers

        return BrokenServers([self], kind)

    def restart(self) -> None:
        """Kills memcached, and starts it at the same address: empty, with all connections cut.

        Clients find that out by themselves. For the next test those of Django are made anew.

        :raises ServerError: as `down` does.
        """
        from .outages import restart

        restart([self])

    def stats(self, group: str = "") -> dict[str, str]:
        """Returns memcached's counters as ``stats``, or ``stats GROUP``, lists them.

        Nobody else uses this server, so they are exact. doc/protocol.txt in memcached's source
        explains each.
        """
        with self._connection() as connection:
            return connection.stats(group)

    def items(self) -> list[Item]:
        """Returns every item that can still be had, in no order: with memcached 1.5.22 or newer.

        Sizes include memcached's own part. By ``lru_crawler metadump``, in doc/protocol.txt.
        """
        with self._connection() as connection:
            return _items(connection.metadump()[0])

    @property
    def outage(self) -> str:
        """The outage that the server is in: "down", "hung" or "full"; "" if it is in none."""
        from ..inject import run

        current = run.current_run_or_none()
        return "" if current is None else current.source.outage(self.address)

    def mend(self) -> bool:
        """Ends the outage that the server is in; returns whether it was in one.

        :raises ServerError: it cannot be started again.
        """
        from ..inject import run

        was_broken = bool(self.outage)
        if (current := run.current_run_or_none()) is not None:
            with _told_by_owner():
                current.source.mend([self.address])
        return was_broken

    @property
    def outages(self) -> int:
        """How many outages the server was in, as far as this process knows."""
        return 0

    @property
    def ended(self) -> Sequence[Counters]:
        """The counters of its earlier processes, as far as this process knows."""
        return ()

    def counters(self) -> Counters:
        """Returns what ``stats`` and ``stats slabs`` list."""
        return {**self.stats(), **self.stats("slabs")}

    def _begin_outage(self, kind: str) -> Callable[[], bool]:
        """Has the owner begin an outage; returns the function that ends it."""
        from ..inject import run

        with _told_by_owner():
            end = run.current_run().source.begin_outage(self.address, kind)

        def mend() -> bool:
            with _told_by_owner():
                return end()

        return mend

    def _restart(self) -> None:
        from ..inject import run

        with _told_by_owner():
            run.current_run().source.restart(self.address)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address or 'not running'}>"

    def _refuse_in(self, *outages: str) -> None:
        """Raises ServerError if the server is in one of these outages."""
        if self.outage in outages:
            reason = self._explain(TimeoutError())
            raise ServerError(f"memcached at {self.address} {reason}")

    @contextmanager
    def _connection(self) -> Iterator[protocol.Connection]:
        from ..inject import protocol

        address = self.address
        self._refuse_in("down", "hung")
        with self._explained(), protocol.Connection.to(address, ANSWER_TIMEOUT) as connection:
            yield connection

    @contextmanager
    def _at_rest(self) -> Iterator[tuple[protocol.Connection, str]]:
        """Connects to the server, once it is at rest.

        :returns: the connection, and why operations may be missing, or "".
        """
        from ..inject import protocol, rest

        address = self.address
        self._refuse_in("down", "hung")
        with self._explained():
            held_back = rest.await_clients([address])
            with rest.WatchedServer(
                *(address, ANSWER_TIMEOUT, self._sees_threads(), protocol.Tally()),
                self._pid_and_threads,
            ) as watched:
                self._pid_and_threads = watched.process
                problem = ""
                if not watched.comes_to_rest() or held_back:
                    watched.connection.stats()  # It may have ended.
                    problem = f"memcached at {address} does not come to rest: a client writes on"
                yield watched.connection, problem

    def _sees_threads(self) -> bool:
        """Returns whether it runs on this machine, as far as that is known."""
        from ..inject import run

        current = run.current_run_or_none()
        return current is not None and self.address in current.servers()

    def _log_path(self) -> str:
        """Returns the path of the file that memcached prints into.

        :raises ServerError: it was not started by this run.
        """
        from ..inject import run

        if path := run.current_run().source.log(self.address):
            return path
        raise ServerError(
            f"memcached at {self.address} cannot be traced: this run did not start it"
        )

    @contextmanager
    def _explained(
        self, errors: tuple[type[Exception], ...] = (OSError, ProtocolError)
    ) -> Iterator[None]:
        """Turns errors of a connection into one that tells what became of the server."""
        try:
            yield
        except errors as error:
            problem = str(error) or "it closed the connection"
            if not isinstance(error, ProtocolError):
                problem = f"does not answer: {problem}"
            reason = self._explain(error) or problem
            raise ServerError(f"memcached at {self._address} {reason}") from error

    def _explain(self, error: Exception) -> str | None:  # noqa: ARG002
        """Returns why the server failed, where that can be known."""
        outage = self.outage
        return f"is {outage}, in an outage that was asked for: end that first" if outage else None


@contextmanager
def _told_by_owner() -> Iterator[None]:
    """Raises ServerError for what the owner of a server refuses."""
    try:
        yield
    except RunError as error:
        raise ServerError(str(error)) from error


def first_items(server: Server, most: int) -> tuple[list[Item], int]:
    """Returns some items of a server, and how many it counts.

    It reads no more than these. memcached counts items that were flushed or have expired, too,
    until it needs their memory.

    :raises ServerError: it does not answer as memcached does.
    """
    with server._connection() as connection:
        dump, count = connection.metadump(most)
        return _items(dump), count


def numbers(server: Server, *names: str) -> list[int]:
    """Returns some counters of a server, in the order of their names.

    :raises ServerError: it does not answer, or not with numbers.
    """
    from ..inject import protocol

    with server._connection() as connection:
        counters = connection.stats()
        return [protocol.number(counters, name) for name in names]


def _items(dump: Mapping[str, tuple[int, float | None]]) -> list[Item]:
    from urllib.parse import unquote

    return [Item(unquote(key), size, expires) for key, (size, expires) in dump.items()]


def _parsed(text: str) -> str:
    from ..inject import address

    try:
        return str(address.Address.parse(text))
    except ValueError as error:
        raise OptionError("address", f"address={error}") from None
