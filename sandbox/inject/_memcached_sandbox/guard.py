"""Refuses connections to the main memcached, and tells the run of each attempt.

An audit hook sees every connect() of this process before it happens: blocking or not, by a thread,
by asyncio, or by a socket that gevent made. Only clients in C that call the system themselves, such
as pylibmc, pass it by.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# What is guarded, as host:port or unix:/path, and the alias that it is known by, or "".
_guarded: dict[str, str] = {}


_audits = False


def guarded() -> dict[str, str]:
    """Returns what is guarded, for `restore`."""
    return dict(_guarded)


def restore(guarded: dict[str, str]) -> None:
    """Guards this and nothing else."""
    _guarded.clear()
    _guarded.update(guarded)


def guard(address: str, alias: str = "") -> None:
    """Guards an address as well, spelled as `locations.addresses` spells it."""
    global _audits  # noqa: PLW0603
    if not _audits:
        sys.addaudithook(_audit)  # There is no way to remove one.
        _audits = True
    _guarded.setdefault(address, alias)
    host, _, port = address.rpartition(":")
    if host in ("localhost", "127.0.0.1", "[::1]"):
        for name in ("localhost", "127.0.0.1", "[::1]"):
            _guarded.setdefault(f"{name}:{port}", alias)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple):
            _check(address[0], address[1])
        elif isinstance(address, (str, bytes)):
            _check_path(address)
    elif event == "socket.getaddrinfo":
        # A host counts by its name: once it is resolved nobody knows it any more.
        _check(arguments[0], arguments[1])


def _check(host: object, port: object) -> None:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str):
        return
    name = f"[{host}]" if ":" in host else host.lower()
    address = f"{name}:{port}"
    if address in _guarded:
        _refuse(address)


def _check_path(path: str | bytes) -> None:
    address = "unix:" + os.fsdecode(path)
    if address in _guarded:
        _refuse(address)


def _refuse(address: str) -> None:
    alias = _guarded[address]
    file, line = _culprit()
    from .errors import MainMemcachedRefused
    from .refusals import Refusal
    from .run import current_run

    current_run().report_refusal(Refusal(address, alias, f"{file}:{line}"))
    known = f", CACHES[{alias!r}]," if alias else ""
    raise MainMemcachedRefused(
        111,
        f"the sandbox refuses the connection to the main memcached at {address}{known} from "
        f"{file}:{line}: take the address from settings.CACHES or MEMCACHED_SANDBOX_ADDRESS, "
        "or turn the guard off, as --no-guard does",
    )


def _culprit() -> tuple[str, int]:
    """Returns file and line of the innermost frame that is no library's, or else the innermost."""
    frame: FrameType | None = sys._getframe(1)
    innermost = sys._getframe(1)
    here = os.path.dirname(__file__)
    library = os.path.dirname(os.__file__)
    while frame is not None:
        file = frame.f_code.co_filename
        if os.path.dirname(file) == here:
            innermost = frame.f_back or frame
        elif not file.startswith((library, "<")) and "site-packages" not in file:
            return file, frame.f_lineno
        frame = frame.f_back
    return innermost.f_code.co_filename, innermost.f_lineno
