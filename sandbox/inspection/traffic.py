"""Counts what tests do to their caches: by the pattern of keys, and by test."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..server.operations import READING, STORING, UNIX_TIME
from . import names
from .follower import FollowerByTest
from .patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from ..server.commands import Request

# What sets an expiry.
EXPIRING = frozenset(("set", "add", "replace", "cas", "touch", "gat"))

# How many patterns are told apart. Keys that are made of words would make one for each.
MOST_PATTERNS = 5_000


@dataclass(slots=True)
class Counted:
    """Counts operations. Gets and hits are those of keys, sets are all commands that store.

    unknown: the gets of which memcached does not tell whether they were hits: meta commands.
    """

    operations: int = 0
    gets: int = 0
    hits: int = 0
    unknown: int = 0
    sets: int = 0
    bytes: int = 0  # of the values that were sent

    def count(self, request: Request) -> None:
        """Counts an operation."""
        self.operations += 1
        if request.verb in READING:
            self.gets += 1
            self.hits += request.found is True
            self.unknown += request.found is None
        elif request.verb in STORING:
            self.sets += 1
            self.bytes += request.size or 0

    def add(self, other: Counted) -> None:
        """Adds the counts of another one."""
        self.operations += other.operations
        self.gets += other.gets
        self.hits += other.hits
        self.unknown += other.unknown
        self.sets += other.sets
        self.bytes += other.bytes

    @property
    def known(self) -> int:
        """The hits and misses."""
        return self.gets - self.unknown

    def hit_rate(self) -> str:
        """Returns the part of hits in hits and misses; "" if there were none."""
        return f"{100 * self.hits / self.known:.0f} %" if self.known else ""

    def doubt(self) -> str:
        """Returns why some gets are neither hits nor misses; "" if there are none."""
        if not self.unknown:
            return ""
        gets = names.counted(self.unknown, "get")
        return (
            f"whether {gets} found the key is not known: memcached does not log the answers to "
            "meta commands"
        )


@dataclass(slots=True)
class Expiry:
    """Is what is known of the expiries of some keys: from ``shortest`` to ``longest`` seconds."""

    shortest: int | None = None
    longest: int | None = None
    dates: bool = False
    never: bool = False
    unknown: bool = False

    def see(self, request: Request) -> None:
        """Takes the expiry that an operation sets."""
        if request.hides_expiry:
            self.unknown = True
        elif not request.expires:
            self.never = True
        elif request.expires > UNIX_TIME:
            self.dates = True
        else:
            seconds = max(request.expires, 0)
            self._widen(seconds, seconds)

    def add(self, other: Expiry) -> None:
        """Adds what another one knows."""
        self.never |= other.never
        self.dates |= other.dates
        self.unknown |= other.unknown
        if other.shortest is not None and other.longest is not None:
            self._widen(other.shortest, other.longest)

    def _widen(self, shortest: int, longest: int) -> None:
        self.shortest = shortest if self.shortest is None else min(self.shortest, shortest)
        self.longest = longest if self.longest is None else max(self.longest, longest)

    def __str__(self) -> str:
        words = []
        if self.shortest is not None:
            more = f" to {self.longest:,}" if self.longest != self.shortest else ""
            words.append(f"{self.shortest:,}{more} s")
        words += ["a date"] * self.dates + ["never"] * self.never
        words += ["unknown"] * self.unknown
        return ", ".join(words)


@dataclass(slots=True)
class OfPattern(Counted):
    """Counts the operations on the keys of a pattern, and has the tests that did some."""

    tests: set[str] = field(default_factory=set)
    expiry: Expiry = field(default_factory=Expiry)


class Traffic:
    """Holds the counts of a run, from all its servers and processes."""

    def __init__(self) -> None:
        self.patterns = Patterns()
        self.by_pattern: dict[str, OfPattern] = {}
        self.by_test: dict[str, Counted] = {}
        self.flaws: list[str] = []

    def of_pattern(self, key: str) -> OfPattern:
        """Returns what counts the operations on a key."""
        folded = self.patterns.fold(key)
        return self._of_folded(folded)

    def _of_folded(self, folded: str) -> OfPattern:
        if folded not in self.by_pattern and len(self.by_pattern) >= MOST_PATTERNS:
            folded = "(other keys)"
        return self.by_pattern.setdefault(folded, OfPattern())

    def total(self) -> Counted:
        """Returns the operations of all tests."""
        total = Counted()
        for test in self.by_test.values():
            total.add(test)
        return total

    def add_test(self, name: str, counted: Counted) -> None:
        """Adds the operations of a test, or of another attempt at it."""
        self.by_test.setdefault(name, Counted()).add(counted)

    def tests(self) -> list[str]:
        """Returns the names of the tests, those with most operations first."""
        return sorted(self.by_test, key=lambda name: -self.by_test[name].operations)

    def shown_patterns(self) -> list[tuple[str, OfPattern]]:
        """Returns the patterns as people should see them, those with most operations first."""
        ordered = sorted(self.by_pattern.items(), key=lambda item: -item[1].operations)
        return [(self.patterns.shown(folded), counted) for folded, counted in ordered]

    def add(self, others: Iterable[Self | Traffic]) -> None:
        """Adds what was counted on other servers, or in other processes."""
        for other in others:
            self.flaws += other.flaws
            self.patterns.add_heads(other.patterns.heads())
            for folded, of_pattern in other.by_pattern.items():
                pattern = self._of_folded(folded)
                pattern.add(of_pattern)
                pattern.tests |= of_pattern.tests
                pattern.expiry.add(of_pattern.expiry)
            for name, test in other.by_test.items():
                self.add_test(name, test)

    def as_json(self) -> dict[str, Any]:
        """Returns all of it for a file of JSON."""
        return {
            "patterns": [
                {"pattern": pattern, **asdict(counted), "tests": len(counted.tests)}
                for pattern, counted in self.shown_patterns()
            ],
            "tests": [{"test": name, **asdict(self.by_test[name])} for name in self.tests()],
            "warnings": self.flaws,
        }

    def packed(self) -> Any:
        """Returns all of it in dicts and lists, for another process to unpack."""
        return {
            "heads": self.patterns.heads(),
            "patterns": {
                folded: {**asdict(each), "tests": [*each.tests]}
                for folded, each in self.by_pattern.items()
            },
            "tests": {name: asdict(each) for name, each in self.by_test.items()},
            "flaws": self.flaws,
        }

    def add_packed(self, packed: Any) -> None:
        """Adds what `packed` has returned in another process."""
        other = Traffic()
        other.patterns.add_heads(packed["heads"])
        other.flaws = packed["flaws"]
        for folded, pattern in packed["patterns"].items():
            expiry = Expiry(**pattern.pop("expiry"))
            tests = {*pattern.pop("tests")}
            other.by_pattern[folded] = OfPattern(**pattern, expiry=expiry, tests=tests)
        for name, test in packed["tests"].items():
            other.by_test[name] = Counted(**test)
        self.add([other])


class TrafficFollower(FollowerByTest):
    """Counts the operations on one server, whose log it follows."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()
        self.traffic.flaws = self.flaws
        self._name = ""
        self._test = Counted()
        self._patterns: dict[int, OfPattern] = {}  # of this test, by their identity

    def see(self, request: Request) -> None:
        """Counts an operation."""
        self._test.count(request)
        if request.key:
            pattern = self.traffic.of_pattern(request.key.decode(errors="backslashreplace"))
            pattern.count(request)
            if request.verb in EXPIRING:
                pattern.expiry.see(request)
            self._patterns[id(pattern)] = pattern

    def begin_test(self, name: str) -> None:
        """Names the test that what was done since the last one belongs to."""
        self._name = name

    def end_test(self, is_emptied: bool) -> None:  # noqa: ARG002
        """Adds what the test has done."""
        if self._name:
            self.traffic.add_test(self._name, self._test)
            for pattern in self._patterns.values():
                pattern.tests.add(self._name)
        self._name, self._test = "", Counted()
        self._patterns.clear()
