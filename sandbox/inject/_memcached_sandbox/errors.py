"""Defines the errors that the processes of a run raise; `sandbox.errors` draws the tree."""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns a text with a visible escape, such as ``\\x1b``, for each unprintable character.

    Line ends and terminal sequences are such characters. Whatever others wrote, in keys, file
    names, command lines or output, passes through here before it is printed. Of ``##`` the second
    character is escaped.
    """
    # CI obeys commands such as ##[error], ##vso[ and ##teamcity[ wherever they are in a line.
    text = text.replace("##", r"#\x23")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class SandboxError(Exception):
    """Base class of every error that memcached-sandbox raises on purpose."""

    def __str__(self) -> str:
        """Returns the text in one line: a server, or a file name, may have put others in."""
        return printable(super().__str__())


class RunError(SandboxError, RuntimeError):
    """The run's sandbox cannot be reached; to go on would mean to use the main memcached."""


class CachesError(SandboxError, ValueError):
    """CACHES, or an option about it, is malformed; the message names the alias."""


class ProtocolError(SandboxError):
    """The server does not answer as memcached does."""


class MainMemcachedRefused(SandboxError, ConnectionRefusedError):  # noqa: N818 - it is one of those
    """The guard refused a connection to the main memcached, or to another worker's server."""
