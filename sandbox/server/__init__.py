"""Asks a memcached at an address for counters and items, and empties it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

        # Without a delay: a get after a set that is not answered would wait 40 ms for the kernel.
        client = Client(
            self.address, timeout=ANSWER_TIMEOUT, connect_timeout=ANSWER_TIMEOUT, no_delay=True
        )
        with self._explained():
            client.version()
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
        """Returns every item that can still be had, in no order.

        Sizes include memcached's own part. By ``lru_crawler metadump``, in doc/protocol.txt.
        """
        from urllib.parse import unquote

        with self._connection() as connection:
            return [
                Item(
                    unquote(fields["key"]),
                    int(fields["size"]),
                    None if fields["exp"] == "-1" else float(fields["exp"]),
                )
                for fields in connection.metadump()
            ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address or 'not running'}>"

    @contextmanager
    def _connection(self) -> Iterator[protocol.Connection]:
        from ..inject import protocol

        address = self.address
        with self._explained(), protocol.Connection.to(address, ANSWER_TIMEOUT) as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what a connection raises into an error that tells what became of the server."""
        try:
            yield
        except (OSError, ProtocolError) as error:
            reason = self._explain(error) or f"does not answer: {error or 'no word in time'}"
            raise ServerError(f"memcached at {self._address} {reason}") from error

    def _explain(self, error: Exception) -> str | None:  # noqa: ARG002
        """Returns why the server failed, where that can be known."""
        return None


def _parsed(text: str) -> str:
    from ..inject import address

    try:
        return str(address.Address.parse(text))
    except ValueError as error:
        raise OptionError("address", f"address={error}") from None
