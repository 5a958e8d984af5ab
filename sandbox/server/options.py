"""The options of one memcached, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from typing import TypedDict

    class MemcachedOptions(TypedDict, total=False):
        """The keyword arguments of `Memcached`, described there."""

        memory_mb: int
        max_item_size: int | None
        threads: int
        max_connections: int
        unix_socket: bool
        binary: str | os.PathLike[str] | None
        args: Sequence[str]
        start_timeout: float


MB = 1024 * 1024

# memcached refuses others: "must be evenly divisible by slab_chunk_max", which is half a slab
# page unless -o slab_chunk_max says otherwise (main() in memcached.c, seen with 1.6.18).
ITEM_SIZE_STEP = MB // 2
ITEM_SIZE_LIMIT = 1024 * MB
DEFAULT_ITEM_SIZE = MB

# getopt_long's tables in main() of memcached.c, 1.6: what takes a value is followed by ":" or "=".
SHORT_OPTIONS = "a:AZp:s:U:m:Mc:khiVrvdl:u:P:f:n:t:D:LR:Cb:B:I:SFXWY:e:o:N:"
LONG_OPTIONS = [
    "unix-mask=", "enable-shutdown", "enable-ssl", "port=", "unix-socket=", "udp-port=",
    "memory-limit=", "disable-evictions", "conn-limit=", "lock-memory", "help", "license",
    "version", "enable-coredumps", "verbose", "daemon", "listen=", "user=", "pidfile=",
    "slab-growth-factor=", "slab-min-size=", "threads=", "enable-largepages",
    "max-reqs-per-event=", "disable-cas", "listen-backlog=", "protocol=", "max-item-size=",
    "enable-sasl", "disable-flush-all", "disable-dumping", "disable-watch", "auth-file=",
    "memory-file=", "extended=", "napi-ids=",
]  # fmt: skip

_SET_BY_US = "it is set by the sandbox itself"
REFUSED_ARGUMENTS = {
    ("-m", "--memory-limit"): "use memory_mb (-m/--memory)",
    ("-I", "--max-item-size"): "use max_item_size (-I/--max-item-size)",
    ("-t", "--threads"): "use threads (-t/--threads)",
    ("-c", "--conn-limit"): "use max_connections",
    ("-s", "--unix-socket"): "use unix_socket (--unix)",
    ("-l", "--listen"): "a sandbox listens on this machine's loopback only",
    ("-a", "--unix-mask"): "the socket is for its owner alone",
    ("-p", "--port"): "the kernel chooses the port",
    ("-U", "--udp-port"): "a sandbox has no UDP",
    ("-u", "--user"): _SET_BY_US,
    ("-P", "--pidfile"): _SET_BY_US,
    ("-d", "--daemon"): "a daemon could not be ended with its owner",
    ("-F", "--disable-flush-all"): "a sandbox must be emptied between tests",
    ("-h", "--help"): "it makes memcached exit at once",
    ("-i", "--license"): "it makes memcached exit at once",
    ("-V", "--version"): "it makes memcached exit at once",
}


SUFFIXES = {"": 1, "k": 1024, "m": MB}


def size(text: str) -> int:
    """Return the bytes that a size is, with k and m for the multiples as memcached's -I has them.

    Raises ValueError.
    """
    digits, suffix = (text[:-1], text[-1:].lower()) if text[-1:].isalpha() else (text, "")
    if not (digits.isascii() and digits.isdigit() and suffix in SUFFIXES):
        raise ValueError(f"{text!r} is not a size: give bytes, or 512k, or 2m")
    return int(digits) * SUFFIXES[suffix]


def check(
    *,
    memory_mb: int = 64,
    max_item_size: int | None = None,
    threads: int = 1,
    max_connections: int = 1024,
    unix_socket: bool = False,  # noqa: ARG001
    binary: str | os.PathLike[str] | None = None,  # noqa: ARG001
    args: Sequence[str] = (),
    start_timeout: float = 5.0,
) -> None:
    """Raise OptionError if memcached would not start with these options of `Memcached`."""
    _check_whole_number("memory_mb", memory_mb)
    _check_whole_number("threads", threads)
    _check_whole_number("max_connections", max_connections)
    _check_memory(memory_mb)
    if max_item_size is not None:
        _check_whole_number("max_item_size", max_item_size)
        _check_item_size(max_item_size, memory_mb, args)
    elif memory_mb * MB < 2 * DEFAULT_ITEM_SIZE:
        raise OptionError(
            "memory_mb",
            "memcached needs at least 2 MB, twice its largest item, but got 1: "
            f"give 2 or more, or a max_item_size of {ITEM_SIZE_STEP} too",
        )
    if args:
        _check_arguments(args)
    if isinstance(start_timeout, bool) or not isinstance(start_timeout, (int, float)):
        raise OptionError(
            "start_timeout", f"must be a number of seconds, but got {start_timeout!r}"
        )
    if not start_timeout > 0:
        raise OptionError("start_timeout", f"must be more than 0 seconds, but got {start_timeout}")


def _check_whole_number(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(option, f"must be a whole number, but got {value!r}")
    if value < 1:
        raise OptionError(option, f"must be 1 or more, but got {value}")


def _check_memory(memory_mb: int) -> None:
    installed_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MB
    if memory_mb > installed_mb:
        raise OptionError(
            "memory_mb",
            f"this machine has {installed_mb} MB, but got {memory_mb}: "
            "64 is plenty for most test suites",
        )


def _check_item_size(max_item_size: int, memory_mb: int, args: Sequence[str]) -> None:
    if max_item_size > memory_mb * MB // 2:
        raise OptionError(
            "max_item_size",
            f"must be at most half of memory_mb={memory_mb}, {memory_mb * MB // 2} bytes, "
            f"but got {max_item_size}: give more memory or a smaller item",
        )
    if max_item_size > ITEM_SIZE_LIMIT:
        raise OptionError(
            "max_item_size",
            f"memcached's own limit is {ITEM_SIZE_LIMIT} bytes (1 GB), but got {max_item_size}",
        )
    own_chunks = any("slab_chunk_max" in argument for argument in args)
    if max_item_size % ITEM_SIZE_STEP and not own_chunks:
        raise OptionError(
            "max_item_size",
            f"memcached takes multiples of {ITEM_SIZE_STEP} bytes (512 KB), "
            f"but got {max_item_size}: round it up",
        )


def _check_arguments(args: Sequence[str]) -> None:
    if isinstance(args, str) or not all(isinstance(argument, str) for argument in args):
        raise OptionError("args", f"must be a list of strings, but got {args!r}")
    import getopt

    try:
        # As memcached itself reads them: clustered (-vd) and abbreviated (--lis) forms included.
        parsed, rest = getopt.gnu_getopt(list(args), SHORT_OPTIONS, LONG_OPTIONS)
    except getopt.GetoptError as error:
        raise OptionError(
            "args",
            f"memcached does not take {list(args)!r}: {error.msg}; see 'memcached -h'",
        ) from None
    if rest:
        raise OptionError("args", f"memcached takes options only, but got {rest[0]!r}")
    for name, _ in parsed:
        for names, reason in REFUSED_ARGUMENTS.items():
            if name in names:
                raise OptionError("args", f"{name} cannot be passed to memcached: {reason}")
