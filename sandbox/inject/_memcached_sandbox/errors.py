"""Defines the errors that the processes of a run raise; `sandbox.errors` draws the tree."""

from __future__ import annotations


class SandboxError(Exception):
    """Base class of every error that memcached-sandbox raises on purpose."""


class RunError(SandboxError, RuntimeError):
    """The run's sandbox cannot be reached; to go on would mean to use the main memcached."""


class CachesError(SandboxError, ValueError):
    """CACHES, or an option about it, is malformed; the message names the alias."""


class ProtocolError(SandboxError):
    """The server does not answer as memcached does."""


class MainMemcachedRefused(SandboxError, ConnectionRefusedError):  # noqa: N818 - it is one of those
    """The guard refused a connection to the main memcached."""
