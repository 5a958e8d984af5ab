"""Defines every error that this package raises on purpose: one line that says what to do.

    SandboxError
    ├── OptionError            (ValueError)              an option is wrong; nothing was started
    ├── BinaryError                                      no memcached to run
    ├── InstallError                                     `sandbox install` cannot get a memcached
    │   └── DiskFullError                                its disk is full
    ├── StartError                                       memcached did not become ready
    ├── ServerError                                      a server does not answer, or has died
    ├── RunError               (RuntimeError)            the sandbox of the run cannot be reached
    ├── MainMemcachedRefused   (ConnectionRefusedError)  the guard refused a connection
    ├── CachesError            (ValueError)              CACHES is malformed
    ├── ProtocolError                                    a server does not answer as memcached does
    ├── RunDirectoryError                                a run directory may be another user's
    ├── RecordError                                      the record of a server cannot be read
    └── CleanupError                                     a stale directory cannot be removed

The last five, and those of `sandbox install`, stay within the package: callers turn them into
another error, one of Django's, or a line of output. `explain_limit` does the same for errors of the
system that mean a limit.
"""

from __future__ import annotations

import errno

from .inject import errors as _inject

SandboxError = _inject.SandboxError
RunError = _inject.RunError
MainMemcachedRefused = _inject.MainMemcachedRefused
CachesError = _inject.CachesError
ProtocolError = _inject.ProtocolError

printable = _inject.printable

# Only here, where the package is sure to be: without it an error could not be pickled by that name.
for _error in (SandboxError, RunError, MainMemcachedRefused):
    _error.__module__ = "sandbox"


class OptionError(SandboxError, ValueError):
    """An option is of the wrong type or out of range; nothing was started.

    ``option`` is its name as a keyword argument. The text begins with what was typed.
    """

    __module__ = "sandbox"

    def __init__(self, option: str, text: str) -> None:
        super().__init__(option, text)  # pickle calls this with both again
        self.option = option
        self.text = text

    def __str__(self) -> str:
        return printable(self.text)


class BinaryError(SandboxError):
    """There is no memcached to run, or it cannot be executed.

    ``remedy`` is the part of the text that says what to do, and ``problem`` the rest.
    """

    __module__ = "sandbox"

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)  # pickle calls this with both again
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return printable(f"{self.problem}: {self.remedy}")


class StartError(SandboxError):
    """memcached was run but did not become ready; nothing is left running."""

    __module__ = "sandbox"


class ServerError(SandboxError):
    """The server is not running, has died, or does not answer as memcached does."""

    __module__ = "sandbox"


class InstallError(SandboxError):
    """A memcached cannot be installed or removed; what was installed is as it was."""


class DiskFullError(InstallError):
    """The disk of the data folder is full."""


class RunDirectoryError(SandboxError):
    """A run directory, or the folder it lies in, may be another user's; the text names it."""


class RecordError(SandboxError):
    """The record of a server cannot be read; the text follows the name of the directory."""


class CleanupError(SandboxError):
    """A stale directory cannot be removed."""


# What an error of the system says about a limit of this machine, and what helps.
LIMITS = {
    errno.EMFILE: "this process has no free file descriptor: "
    "close files that it has open, or raise 'ulimit -n'",
    errno.ENFILE: "this machine has no free file descriptor: end some programs",
    errno.EAGAIN: "no further process can be started: end some, or raise 'ulimit -u'",
    errno.ENOMEM: "this machine has no memory left for another process: end some programs",
    errno.ENOSPC: "the disk is full: free some space, or point TMPDIR to a folder on another one",
    errno.EDQUOT: "your disk quota is used up: remove some files, or point TMPDIR to a folder on "
    "another disk",
}


def explain_limit(error: OSError) -> str | None:
    """Returns which limit of this machine was reached and what helps; None for any other error."""
    return LIMITS.get(error.errno or 0)
