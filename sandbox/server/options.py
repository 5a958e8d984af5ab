"""Holds the one table of options, and checks those of memcached before anything starts.

Each way in gives an option the name that is usual there, and reads it here. An error repeats what
was typed, under the name by which it was typed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import OptionError
from .binary import find_memcached

if TYPE_CHECKING:
    from typing import TypedDict

    class MemcachedOptions(TypedDict, total=False):
        """Types the keyword arguments of `Memcached`, described there."""

        memory_mb: int
        max_item_size: int | None
        threads: int
        max_connections: int
        unix_socket: bool
        binary: str | os.PathLike[str] | None
        args: Sequence[str]
        start_timeout: float
        crawl: bool


KB = 1024
MB = 1024 * KB
GB = 1024 * MB

UNITS = {"k": KB, "m": MB, "g": GB}

# memcached refuses others: "must be evenly divisible by slab_chunk_max", which is half a slab
# page unless -o slab_chunk_max says otherwise (main() in memcached.c, seen with 1.6.18).
ITEM_SIZE_STEP = MB // 2
ITEM_SIZE_LIMIT = GB
DEFAULT_ITEM_SIZE = MB

# File descriptors that memcached itself needs, and each of its threads: with 1.6.18, later versions
# need a few more. main() in memcached.c limits its descriptors to its connections.
OWN_FILES = 11
OWN_FILES_OF_A_THREAD = 4

LONGEST_START = 3600  # seconds

# The port by which memcached lets the kernel choose one: server_socket() in memcached.c.
ANY_PORT = "-1"

# memcached reads numbers as C's int.
LARGEST_NUMBER = 2**31 - 1

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

# What follows it is no option for memcached, be it one: getopt(3).
END_OF_OPTIONS = "--"

_SET_BY_SANDBOX = "it is set by the sandbox itself"
_NO_PASSWORD = "the sandbox talks to its servers without a password"

_CRAWLER_OFF = "a sandbox lists and frees items by the crawler, which it turns off"

# Settings of -o, --extended that memcached must not be given, and why.
REFUSED_SETTINGS = {"no_lru_crawler": _CRAWLER_OFF, "no_modern": _CRAWLER_OFF}

# What memcached must not be told, and why; "{keyword}" is the option to use in its place.
REFUSED_ARGUMENTS = {
    ("-m", "--memory-limit"): "use {memory_mb}",
    ("-I", "--max-item-size"): "use {max_item_size}",
    ("-t", "--threads"): "use {threads}",
    ("-c", "--conn-limit"): "use {max_connections}",
    ("-s", "--unix-socket"): "use {unix_socket}",
    ("-l", "--listen"): "a sandbox listens on this machine's loopback only",
    ("-a", "--unix-mask"): "the socket is for its owner alone",
    ("-p", "--port"): "the kernel chooses the port",
    ("-U", "--udp-port"): "a sandbox has no UDP",
    ("-u", "--user"): _SET_BY_SANDBOX,
    ("-P", "--pidfile"): _SET_BY_SANDBOX,
    ("-d", "--daemon"): "a daemon could not be ended with its owner",
    ("-F", "--disable-flush-all"): "a sandbox must be emptied between tests",
    ("-Z", "--enable-ssl"): "the sandbox talks to its servers without TLS",
    ("-Y", "--auth-file"): _NO_PASSWORD,
    ("-S", "--enable-sasl"): _NO_PASSWORD,
    ("-B", "--protocol"): "the sandbox needs the text protocol, and clients choose their own",
    ("-R", "--max-reqs-per-event"): "a sandbox executes all that was sent before a flush",
    ("-C", "--disable-cas"): "up to memcached 1.6.24, a second after each flush would be lost",
    ("-v", "--verbose"): "a line for each command would fill this machine's memory",
    ("-h", "--help"): "it makes memcached exit at once",
    ("-i", "--license"): "it makes memcached exit at once",
    ("-V", "--version"): "it makes memcached exit at once",
}


def whole_number(text: str) -> int:
    """Reads a whole number.

    :raises ValueError: it is none.
    """
    number, unit = _split(text)
    if number is None or unit:
        raise ValueError("must be a whole number")
    return number


def positive_number(text: str) -> int:
    """Reads a whole number that is not 0.

    :raises ValueError: it is none.
    """
    number = whole_number(text)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def megabytes(text: str) -> int:
    """Reads a number of MB, or a size in MB or GB such as 512m or 1g.

    :raises ValueError: it is neither.
    """
    number, unit = _split(text)
    if number is None or unit not in ("", "m", "g"):
        raise ValueError("must be a whole number of MB, or a size such as 512m or 1g")
    return number * UNITS["g"] // MB if unit == "g" else number


def size(text: str) -> int:
    """Reads a number of bytes, or a size such as 512k, 2m or 1g.

    :raises ValueError: it is neither.
    """
    number, unit = _split(text)
    if number is None or unit not in ("", *UNITS):
        raise ValueError("must be a size: bytes, or such as 512k or 2m")
    return number * UNITS.get(unit, 1)


def _split(text: str) -> tuple[int | None, str]:
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    digits = text[: len(text) - len(unit)]
    sign, unsigned = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if not (unsigned.isascii() and unsigned.isdigit()):
        return None, unit
    return int(sign + unsigned), unit


def seconds(text: str) -> float:
    """Reads a number of seconds.

    :raises ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number of seconds") from None


def switch(text: str) -> bool:
    """Reads what turns something on or off.

    :raises ValueError: it is neither.
    """
    if text.lower() in ("1", "true", "t", "yes", "y", "on"):  # as click has them
        return True
    if text.lower() in ("0", "false", "f", "no", "n", "off"):
        return False
    raise ValueError("must be true or false")


def path(text: str) -> str:
    """Reads a path, or a name on PATH.

    :raises ValueError: the text is empty.
    """
    if not text:
        raise ValueError("must be a path or a name")
    return text


class Option(NamedTuple):
    """Describes an option for every way in.

    keyword: its name in Python.
    word: its name elsewhere: MEMCACHED_SANDBOX_WORD, memcached_sandbox_word, --memcached-word.
    read: makes its value of a text; raises ValueError with what the text must be.
    metavar: what stands for the value in a help text; "" if it takes none.
    help: what it is for, in a line.
    default: what is assumed without it, as it would be typed; "" for nothing.
    flags: its names on the command line, if they are not --word.
    repeatable: it may be given several times.
    variable_word: its name in the environment, if it is not the word.
    """

    keyword: str
    word: str
    read: Callable[[str], Any]
    metavar: str
    help: str
    default: str = ""
    flags: tuple[str, ...] = ()
    repeatable: bool = False
    variable_word: str = ""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"MEMCACHED_SANDBOX_{(self.variable_word or self.word).upper()}"

    @property
    def command_flags(self) -> tuple[str, ...]:
        """The names on the command line, the long one last."""
        return self.flags or (f"--{self.word.replace('_', '-')}",)


# Those of a memcached, as `Memcached` has them, and then those of a run.
OPTIONS = (
    Option(
        *(
            "memory_mb",
            "memory",
            megabytes,
            "MB",
            "Memory cap of each server, in MB or such as 512m or 1g.",
        ),
        default="64",
        flags=("-m", "--memory"),
    ),
    Option(
        *("max_item_size", "max_item_size", size, "SIZE"),
        "Largest value of an item, such as 2m.",
        default="1m",
        flags=("-I", "--max-item-size"),
    ),
    Option(
        *("threads", "threads", whole_number, "N", "Worker threads of each server."),
        default="1",
        flags=("-t", "--threads"),
    ),
    Option(
        *("max_connections", "max_connections", whole_number, "N"),
        "Limit of connections and of memcached's own files.",
        default="1024",
    ),
    Option(
        *("unix_socket", "unix", switch, ""),
        "Listen on a Unix socket, which other users of this machine cannot reach.",
    ),
    Option(
        *("binary", "binary", path, "PATH"),
        "memcached to run: a path, a name on PATH or an installed suite.",
        flags=("--memcached",),
    ),
    Option(
        *("args", "arg", str, "ARG", "Further argument for memcached; repeatable."),
        flags=("--memcached-arg",),
        repeatable=True,
        variable_word="memcached_arg",
    ),
    Option(
        *("start_timeout", "start_timeout", seconds, "SECONDS"),
        "Time limit for the start of a server.",
        default="5",
    ),
    Option(
        *("crawl", "crawl", switch, ""),
        "Free flushed items, for caches that list their keys by slabs.",
    ),
    Option(
        *("exclude", "exclude", str, "ALIAS", "Leave this alias in CACHES alone; repeatable."),
        repeatable=True,
    ),
    Option(
        *("flush", "flush", str, "test|never", "Empty the caches after each test, or never."),
        default="test",
    ),
    Option(
        *("guard", "guard", str, "HOST:PORT"),
        "Refuse connections to this address, too; repeatable; 'off' for no guard.",
        repeatable=True,
    ),
    Option("no_guard", "no_guard", switch, "", "Allow connections to the main memcached."),
    Option(
        "strict",
        "strict",
        switch,
        "",
        "Fail if the guard refused a connection, or nothing used the sandbox.",
    ),
    Option(
        *("quiet", "quiet", switch, "", "Print no summary."),
        flags=("-q", "--quiet"),
    ),
    Option(
        *("leaks", "leaks", switch, ""),
        "Tell at the end what tests would have left for others, without isolation.",
    ),
    Option(
        *("leaks_json", "leaks_json", path, "FILE"),
        "Write the same into a file, as JSON.",
    ),
    Option(
        *("report", "report", switch, ""),
        "Tell at the end which keys and tests had most operations.",
    ),
    Option(
        *("report_top", "report_top", positive_number, "N"),
        "Tell of N keys and N tests.",
        default="10",
    ),
    Option(
        *("report_json", "report_json", path, "FILE"),
        "Write the operations of all keys and tests into a file, as JSON.",
    ),
    Option(
        *("report_html", "report_html", path, "FILE"),
        "Write the report into a page, with a timeline of each test.",
    ),
    Option(
        *("findings", "findings", switch, ""),
        "Tell of keys without expiry, fetched repeatedly, never read, too large or evicted.",
    ),
)

# Those of the pytest plugin alone.
OF_PYTEST = (
    Option(
        *("trace", "trace", switch, ""),
        "Show the last operations of a failed test; each costs up to three times as much.",
    ),
)

OF_MEMCACHED = OPTIONS[:9]
MEMCACHED_KEYWORDS = [option.keyword for option in OF_MEMCACHED]
BY_KEYWORD = {option.keyword: option for option in (*OPTIONS, *OF_PYTEST)}


class Given(NamedTuple):
    """Keeps a value that was typed for an option, and the text with the option's name."""

    value: Any  # a text to read, a list of texts if the option is repeatable, or a value
    spelled: str


def typed(option: Option, name: str, value: Any, joint: str = "=") -> Given:
    """Returns what was typed on a command line.

    :param name: the name of the option there.
    :param joint: what stands there between the name and the value.
    """
    if not option.metavar:
        return Given(value, name)
    values = value if option.repeatable else [value]
    return Given(value, " ".join(f"{name}{joint}{text}" for text in values))


def merged(*levels: Mapping[str, Given]) -> dict[str, Given]:
    """Returns the options of several levels, of which a later one comes before the others.

    An address to guard comes before an earlier wish for no guard, too.
    """
    given: dict[str, Given] = {}
    for level in levels:
        if "guard" in level:
            given.pop("no_guard", None)
        given |= level
    return given


def from_environment(options: Iterable[Option] = OPTIONS) -> dict[str, Given]:
    """Returns the options that are set in the environment, by their keywords.

    A repeatable one has its values separated by spaces there.
    """
    given = {}
    for option in options:
        if text := os.environ.get(option.variable):
            value = text.split() if option.repeatable else text
            given[option.keyword] = Given(value, f"{option.variable}={text}")
    return given


def read(given: Mapping[str, Given]) -> dict[str, Any]:
    """Returns the values of options, by their keywords.

    :raises OptionError: one of them cannot be read.
    """
    values = {}
    for keyword, (value, spelled) in given.items():
        option = BY_KEYWORD[keyword]
        try:
            if option.repeatable and value is not None and not _are_strings(value):
                raise ValueError("must be a list of strings")
            values[keyword] = option.read(value) if isinstance(value, str) else value
        except ValueError as error:
            raise OptionError(keyword, f"{spelled}: {error}") from None
    return values


def read_memcached(given: Mapping[str, Given], name: Callable[[str], str]) -> MemcachedOptions:
    """Returns those options that `Memcached` takes, checked.

    :param name: returns how an option is called where these were typed, by its keyword.
    :raises OptionError: one of them is wrong.
    :raises BinaryError: there is no such binary.
    """
    of_memcached = {o.keyword: given[o.keyword] for o in OF_MEMCACHED if o.keyword in given}
    values: MemcachedOptions = read(of_memcached)  # type: ignore[assignment]
    check(values, {keyword: spelled for keyword, (_, spelled) in of_memcached.items()}, name)
    if "binary" in values:
        find_memcached(values["binary"], of_memcached["binary"].spelled)
    return values


def check(
    options: MemcachedOptions,
    spelled: Mapping[str, str] | None = None,
    name: Callable[[str], str] = str,
) -> None:
    """Checks the options of a `Memcached`, without those that it was not given.

    :param spelled: how they were typed, by keyword, if not as arguments in Python.
    :param name: returns how an option is called where they were typed, by its keyword.
    :raises OptionError: memcached would not start with them.
    """
    _Check(options, spelled or {}, name).check()


def _are_strings(value: object) -> bool:
    return (
        isinstance(value, Collection)
        and not isinstance(value, str)
        and all(isinstance(item, str) for item in value)
    )


def _can_be_passed(text: object) -> bool:
    """Returns whether a text can be an argument of a program."""
    try:
        return isinstance(text, str) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _spelled(size: int) -> str:
    return f"{size // KB} KB" if size % MB else f"{size // MB} MB"


class _Check:
    def __init__(
        self, options: MemcachedOptions, spelled: Mapping[str, str], name: Callable[[str], str]
    ) -> None:
        self._spelled = spelled
        self._name = name
        self._options: Mapping[str, Any] = options

    def check(self) -> None:
        for keyword in self._options:
            if keyword not in MEMCACHED_KEYWORDS:
                known = ", ".join(MEMCACHED_KEYWORDS)
                raise self._error(keyword, f"is no option; the options are {known}")
        self._check_types()
        for keyword in ("memory_mb", "threads", "max_connections"):
            self._check_whole_number(keyword)
        self._check_connections()
        memory_mb = self._options.get("memory_mb", 64)
        args = self._options.get("args", ())
        self._check_memory(memory_mb)
        if self._options.get("max_item_size") is not None:
            self._check_whole_number("max_item_size")
            self._check_item_size(self._options["max_item_size"], memory_mb, args)
        elif memory_mb * MB < 2 * DEFAULT_ITEM_SIZE:
            raise self._error(
                "memory_mb",
                "memcached needs at least 2 MB, twice its largest item: give 2 or more, or "
                f"{self._name('max_item_size')} of {ITEM_SIZE_STEP // KB} KB, too",
            )
        if args:
            self._check_arguments(args)
        self._check_start_timeout(self._options.get("start_timeout", 5.0))

    def _check_types(self) -> None:
        args = self._options.get("args", ())
        if not _are_strings(args):
            raise self._error("args", "must be a list of strings")
        if not all(map(_can_be_passed, args)):
            raise self._error("args", "no program can be passed a NUL or a lone surrogate")
        binary = self._options.get("binary")
        if not isinstance(binary, str | os.PathLike | None):
            raise self._error("binary", "must be a path or a name")
        if binary is not None and not _can_be_passed(os.fspath(binary)):
            raise self._error("binary", "no path has a NUL or a lone surrogate in it")
        for keyword in ("unix_socket", "crawl"):
            if not isinstance(self._options.get(keyword, False), bool):
                raise self._error(keyword, "must be True or False")

    def _error(self, keyword: str, problem: str) -> OptionError:
        return OptionError(keyword, f"{self._spell(keyword)}: {problem}")

    def _spell(self, keyword: str) -> str:
        if keyword in self._spelled:
            return self._spelled[keyword]
        if keyword in self._options:
            return f"{self._name(keyword)}={self._options[keyword]!r}"
        return f"{self._name(keyword)} ({BY_KEYWORD[keyword].default} by default)"

    def _check_whole_number(self, keyword: str) -> None:
        if keyword not in self._options:
            return
        value = self._options[keyword]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._error(keyword, "must be a whole number")
        if value < 1:
            raise self._error(keyword, "must be 1 or more")
        if value > LARGEST_NUMBER and keyword != "max_item_size":  # that has a lower limit
            raise self._error(keyword, f"must be at most {LARGEST_NUMBER}")

    def _check_connections(self) -> None:
        threads = self._options.get("threads", 1)
        least = OWN_FILES + threads * OWN_FILES_OF_A_THREAD
        if self._options.get("max_connections", 1024) >= least:
            return
        if "threads" in self._spelled and "max_connections" not in self._spelled:
            raise self._error(
                "threads",
                f"memcached's own files count as connections: give {least} or more in "
                f"{self._name('max_connections')}, too",
            )
        raise self._error(
            "max_connections",
            f"must be {least} or more with {threads} thread{'' if threads == 1 else 's'}: "
            "memcached's own files count as connections",
        )

    def _check_memory(self, memory_mb: int) -> None:
        installed_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MB
        if memory_mb > installed_mb:
            raise self._error(
                "memory_mb",
                f"this machine has {installed_mb} MB: 64 is plenty for most test suites",
            )

    def _check_item_size(self, max_item_size: int, memory_mb: int, args: Sequence[str]) -> None:
        if max_item_size > memory_mb * MB // 2:
            raise self._error(
                "max_item_size",
                f"must be at most {_spelled(memory_mb * MB // 2)}, "
                f"half of {self._spell('memory_mb')}: "
                "give more memory or a smaller item",
            )
        if max_item_size > ITEM_SIZE_LIMIT:
            raise self._error("max_item_size", "memcached's own limit is 1 GB")
        own_chunks = any("slab_chunk_max" in argument for argument in args)
        if max_item_size % ITEM_SIZE_STEP and not own_chunks:
            raise self._error(
                "max_item_size",
                f"memcached takes multiples of {ITEM_SIZE_STEP // KB} KB: round it up",
            )

    def _check_arguments(self, args: Sequence[str]) -> None:
        import getopt

        try:
            # As memcached itself reads them: with clustered (-vd) and abbreviated (--lis) forms.
            parsed, rest = getopt.gnu_getopt(list(args), SHORT_OPTIONS, LONG_OPTIONS)
        except getopt.GetoptError as error:
            raise self._error(
                "args", f"memcached does not take that, {error.msg}; see 'memcached -h'"
            ) from None
        if rest or END_OF_OPTIONS in args:
            other = rest[0] if rest else END_OF_OPTIONS
            raise self._error("args", f"memcached takes options only, and {other!r} is none")
        for name, value in parsed:
            for setting in value.split(",") if name in ("-o", "--extended") else ():
                if reason := REFUSED_SETTINGS.get(setting.partition("=")[0]):
                    raise self._error(
                        "args", f"{name} {setting} cannot be passed to memcached: {reason}"
                    )
            for names, reason in REFUSED_ARGUMENTS.items():
                if name in names:
                    words = {option.keyword: self._name(option.keyword) for option in OPTIONS}
                    raise self._error(
                        "args",
                        f"{name} cannot be passed to memcached: {reason.format_map(words)}",
                    )

    def _check_start_timeout(self, start_timeout: object) -> None:
        if isinstance(start_timeout, bool) or not isinstance(start_timeout, (int, float)):
            raise self._error("start_timeout", "must be a number of seconds")
        if not start_timeout > 0:
            raise self._error("start_timeout", "must be more than 0 seconds")
        if start_timeout > LONGEST_START:
            raise self._error("start_timeout", f"must be at most {LONGEST_START} seconds")
