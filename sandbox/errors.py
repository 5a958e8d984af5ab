"""What can go wrong, each error one line that says what to do about it."""

from __future__ import annotations


class SandboxError(Exception):
    """Base class of every error that this package raises on purpose."""


class OptionError(SandboxError, ValueError):
    """An option is of the wrong type or out of range; nothing was started.

    ``option`` is its name as a keyword argument.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem


class BinaryError(SandboxError):
    """There is no memcached to run, or it cannot be executed."""


class StartError(SandboxError):
    """memcached was run, but no server of ours came out of it; nothing is left running."""


class ServerError(SandboxError):
    """The server is not running, has died, or does not answer as a memcached does."""
