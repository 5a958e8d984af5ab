"""Tells an error that means a limit of this machine from all others, and what to do about it."""

from __future__ import annotations

import errno

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


def limit(error: OSError) -> str | None:
    """Return which limit was hit and what helps, or None if it was not that."""
    return LIMITS.get(error.errno or 0)
