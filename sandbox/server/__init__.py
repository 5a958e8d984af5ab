"""Asks a memcached at an address for counters and items, and empties it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..errors import OptionError, ProtocolError, ServerError

if TYPE_CHECKING:
    from pymemcache.client.base import Client

    from ..inject import protocol

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
        try:
            with ExitStack() as stack:
                stack.callback(client.close)
                client.version()
                stack.pop_all()
        except (OSError, MemcacheError) as error:
            what = str(error) or "it closed the connection"
            raise self._failed(error, f"does not answer: {what}") from error
        return client

    def flush(self) -> None:
        """Forgets every item, at once and exactly: what is set from now on stays."""
        with self._connection() as connection:
            connection.send_flush()
            connection.await_flush()

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address or 'not running'}>"

    @contextmanager
    def _connection(self) -> Iterator[protocol.Connection]:
        from ..inject import protocol

        version: tuple[int, ...] = ()
        try:
            with protocol.Connection.to(self.address, ANSWER_TIMEOUT) as connection:
                try:
                    yield connection
                finally:
                    version = connection.version
        except ProtocolError as error:
            raise self._failed(error, str(error), protocol.dotted(version)) from error
        except OSError as error:
            raise self._failed(error, f"does not answer: {error}") from error

    def _failed(self, error: Exception, problem: str, version: str = "") -> ServerError:
        """Returns an error that tells what became of the server, or else the problem."""
        named = f"memcached {version}".rstrip()
        return ServerError(f"{named} at {self._address} {self._explain(error) or problem}")

    def _explain(self, error: Exception) -> str | None:  # noqa: ARG002
        """Returns why the server failed, where that can be known."""
        return None


def numbers(server: Server, *names: str, group: str = "") -> list[int]:
    """Returns some counters of a server, in the order of their names.

    :param group: that of ``stats GROUP``.
    :raises ServerError: it does not answer, or not with numbers.
    """
    from ..inject import protocol

    with server._connection() as connection:
        counters = connection.stats(group)
        return [protocol.number(counters, name) for name in names]


def first_items(server: Server, most: int) -> tuple[list[Item], int]:
    """Returns some items of a server, and how many it counts.

    It reads no more than these. memcached counts items that were flushed or have expired, too,
    until it needs their memory.

    :raises ServerError: it does not answer as memcached does.
    """
    with server._connection() as connection:
        dump, count = connection.metadump(most)
        return _items(dump), count


def _items(dump: Mapping[str, tuple[int, float | None]]) -> list[Item]:
    from urllib.parse import unquote

    return [Item(unquote(key), size, expires) for key, (size, expires) in dump.items()]


def _parsed(text: str) -> str:
    from ..inject import address

    try:
        return str(address.Address.parse(text))
    except ValueError as error:
        raise OptionError("address", f"address={error}") from None
