"""What a server's directory says about it: who owns it, which process it is, where it listens.

It is read when its owner and the reaper are gone, and by people who want to know what runs.
Nothing in it is a secret: the command of the owner, which may hold one, is asked of the kernel.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import RecordError
from ..system.processes import Identity

# The first line of each record, with the version of its format.
HEADER = b"memcached-sandbox 1\n"


class Record(NamedTuple):
    """The record of one server. It has no address yet while the server comes up."""

    owner: Identity
    server: Identity
    memory_mb: int
    address: str | None

    @classmethod
    def read(cls, directory: str) -> Record:
        """Return the record in a server's directory. Raises RecordError and FileNotFoundError."""
        try:
            with open(_path(directory), "rb") as file:
                text = file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RecordError(f"has a record that cannot be read ({error.strerror})") from None
        if not text.startswith(HEADER):
            if text.startswith(HEADER.partition(b" ")[0]):
                raise RecordError("has the record of another version of memcached-sandbox")
            raise RecordError("has a record that is none of ours")
        head, _, address = text[len(HEADER) :].partition(b"address ")
        try:
            owner_pid, owner_created, server_pid, server_created, memory_mb = head.split()[:5]
            return cls(
                Identity(int(owner_pid), float(owner_created)),
                Identity(int(server_pid), float(server_created)),
                int(memory_mb),
                # A path may have any character in it but is complete with the line's end.
                os.fsdecode(address[:-1]) if address.endswith(b"\n") else None,
            )
        except ValueError:
            raise RecordError("has a record that was written only half") from None


def write(directory: str, server_pid: int, memory_mb: int) -> None:
    """Make the record of a server that this process has started just now. Raises OSError."""
    owner, server = Identity.of_this_process(), Identity.of_new_child(server_pid)
    text = f"{owner.pid} {owner.created:.6f}\n{server.pid} {server.created:.6f}\n{memory_mb}\n"
    with open(_path(directory), "xb", buffering=0) as record:
        record.write(HEADER + text.encode())


def add_address(directory: str, address: str) -> None:
    """Say in a server's record where it listens. Raises OSError."""
    with open(_path(directory), "ab", buffering=0) as record:
        record.write(b"address " + os.fsencode(address) + b"\n")


def _path(directory: str) -> str:
    return os.path.join(directory, "record")
