"""Knows which test each operation in a log belongs to."""

from __future__ import annotations

from collections.abc import Iterable

from ..server.commands import Request
from ..server.log import BEGINS, ENDS, Mark

# A flaw; see `Request.hides_expiry`.
UNKNOWN_EXPIRY = "the expiry of keys that clients set in the binary protocol is not known"


class FollowerByTest:
    """Follows the log of a server, test by test.

    What is done before a test, as in a setUpClass, belongs to the test that begins next.

    tests: the tests that have begun.
    flaws: why what is found may be incomplete or wrong.
    address: where the server is; "" as long as it is not followed.
    """

    def __init__(self) -> None:
        self.address = ""
        self.tests: set[str] = set()
        self.flaws: list[str] = []
        self._has_begun = False

    def take(self, events: Iterable[Request | Mark]) -> None:
        """Takes what was read in the log."""
        for event in events:
            if isinstance(event, Request):
                self.see(event)
            elif event.what == BEGINS:
                if self._has_begun:  # The test before has kept its caches, or this one goes on.
                    self.end_test(is_emptied=False)
                self._has_begun = True
                self.tests.add(event.test)
                self.begin_test(event.test)
            elif event.what == ENDS:
                self._has_begun = False
                self.end_test(is_emptied=True)
            else:
                self.see_flush()

    def finish(self) -> None:
        """Ends the last test, if it has kept its caches."""
        if self._has_begun:
            self._has_begun = False
            self.end_test(is_emptied=False)

    def note(self, flaw: str) -> None:
        """Notes why what is found may be incomplete or wrong, if that is new."""
        if flaw not in self.flaws:
            self.flaws.append(flaw)

    def see(self, request: Request) -> None:
        """Handles an operation of a client."""
        raise NotImplementedError

    def see_flush(self) -> None:
        """Handles that a user of this package empties the server."""

    def begin_test(self, name: str) -> None:
        """Begins a test: what was done since the last one belongs to it."""
        raise NotImplementedError

    def end_test(self, is_emptied: bool) -> None:
        """Ends the test that is under way, if one is.

        :param is_emptied: the server is emptied now.
        """
        raise NotImplementedError
