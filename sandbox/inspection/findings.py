"""Finds what tests do to their caches that is seldom meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import printable
from ..server.operations import DEPENDING, READING, STORING
from .follower import UNKNOWN_EXPIRY, FollowerByTest
from .names import counted, short_names
from .patterns import Patterns

if TYPE_CHECKING:
    from ..server.commands import Request

# The kinds, by the names that a marker allows them by, and what each says of a key.
REPEATED = "repeated"
NEVER_READ = "never-read"
NO_EXPIRY = "no-expiry"
TOO_LARGE = "too-large"
EVICTED = "evicted"
KINDS = (REPEATED, NEVER_READ, NO_EXPIRY, TOO_LARGE, EVICTED)

TEXTS = {
    REPEATED: "is fetched {number} times in one test",
    NEVER_READ: "is set, and no such key is read in the whole run",
    NO_EXPIRY: "is set without expiry",
    TOO_LARGE: "is refused: {number:,} bytes are too large, or there is no memory left",
}

# How often a test may fetch a key.
MOST_FETCHES = 2

# How many keys of a test are counted, or patterns of a run, and how many findings there are.
MOST_KEYS = 20_000
MOST_FINDINGS = 5_000

# A flaw.
TOO_MANY_KEYS = f"a test has used more than {MOST_KEYS:,} keys"

# How many lines are printed.
MOST_LINES = 20


class MemcachedFinding(UserWarning):
    """Warns that a test does something to its caches that is seldom meant."""

    __module__ = "sandbox"  # where its users find it


class Finding(NamedTuple):
    """Is what was found at a key in a test.

    kind: one of `KINDS`.
    number: how often the key was fetched, or the bytes that were refused.
    """

    kind: str
    key: str
    test: str
    number: int = 0

    def __str__(self) -> str:
        return f"{printable(self.key)} {TEXTS[self.kind].format(number=self.number)}"


class FindingsFollower(FollowerByTest):
    """Finds such things on one server, whose log it follows.

    allows: returns whether a finding of the test that is under way is as it should.
    """

    def __init__(self) -> None:
        super().__init__()
        self.findings = Findings()
        self.findings.flaws = self.flaws
        self.allows: Callable[[Finding], bool] = lambda _: False
        self._name = ""
        self._fetches: dict[str, int] = {}
        self._found: dict[tuple[str, str], Finding] = {}  # by kind and pattern
        self._sets: dict[str, str] = {}  # the first key of each pattern
        self._reads: set[str] = set()

    def see(self, request: Request) -> None:
        """Looks at an operation."""
        verb, key = request.verb, request.key.decode(errors="backslashreplace")
        if max(map(len, (self._fetches, self._reads, self._sets, self._found))) >= MOST_KEYS:
            self.note(TOO_MANY_KEYS)
            return
        if verb in DEPENDING:  # It tells its client that the key is there.
            self._reads.add(self.findings.patterns.fold(key))
        if verb in READING:
            self._fetches[key] = fetches = self._fetches.get(key, 0) + 1
            if fetches > MOST_FETCHES:
                self._find(REPEATED, key, fetches)
        elif (
            verb in STORING and request.was_refused and not (request.is_conflict or request.in_full)
        ):
            self._find(TOO_LARGE, key, request.size or 0)
        elif key and request.has_stored():
            if not self.allows(Finding(NEVER_READ, key, "")):
                self._sets.setdefault(self.findings.patterns.fold(key), key)
            if request.hides_expiry:
                self.note(UNKNOWN_EXPIRY)
            elif not request.expires and not verb.endswith("pend"):  # They leave the expiry.
                self._find(NO_EXPIRY, key)

    def _find(self, kind: str, key: str, number: int = 0) -> None:
        what = kind, self.findings.patterns.fold(key)
        known, found = self._found.get(what), Finding(kind, key, "", number)
        if (known is None or number > known.number) and not self.allows(found):
            self._found[what] = found

    def of_test(self) -> list[Finding]:
        """Returns what was found in the test that is under way: one for each kind and pattern."""
        return [finding._replace(test=self._name) for finding in self._found.values()]

    def begin_test(self, name: str) -> None:
        """Names the test that what was done since the last one belongs to."""
        self._name = name

    def end_test(self, is_emptied: bool) -> None:  # noqa: ARG002
        """Adds what was found in the test."""
        self.findings.add(self.of_test())
        self.findings.add_uses(self._name, self._sets, self._reads)
        self._name = ""
        for of_test in (self._fetches, self._found, self._sets, self._reads):
            of_test.clear()


class Findings:
    """Holds what was found in a run, on all its servers and in all its processes."""

    def __init__(self) -> None:
        self.patterns = Patterns()
        self.flaws: list[str] = []
        self._found: list[Finding] = []
        self._dropped = 0
        self._set: dict[str, tuple[str, str]] = {}  # first key and test, by pattern
        self._read: set[str] = set()

    def add(self, findings: Iterable[Finding]) -> None:
        """Adds what was found in a test."""
        for finding in findings:
            if len(self._found) < MOST_FINDINGS:
                self._found.append(finding)
            else:
                self._dropped += 1

    def add_uses(self, test: str, keys_set: dict[str, str], read: Iterable[str]) -> None:
        """Adds which patterns of keys were set in a test, and which ones were read."""
        for pattern, key in keys_set.items():
            if len(self._set) < MOST_FINDINGS:
                self._set.setdefault(pattern, (key, test))
        if len(self._read) < MOST_KEYS:
            self._read.update(read)

    def add_all(self, other: Findings) -> None:
        """Adds what was found on another server, or in another process."""
        self.patterns.add_heads(other.patterns.heads())
        self.flaws += other.flaws
        self.add(other._found)
        self._dropped += other._dropped
        for pattern, (key, test) in other._set.items():
            self.add_uses(test, {pattern: key}, ())
        self.add_uses("", {}, other._read)

    def packed(self) -> Any:
        """Returns all of it in lists and dicts, for another process to unpack."""
        return {
            "heads": self.patterns.heads(),
            "flaws": self.flaws,
            "found": [*map(tuple, self._found)],
            "dropped": self._dropped,
            "set": self._set,
            "read": [*self._read],
        }

    def add_packed(self, packed: Any) -> None:
        """Adds what `packed` has returned in another process."""
        other = Findings()
        other.patterns.add_heads(packed["heads"])
        other.flaws = packed["flaws"]
        other._found = [Finding(*finding) for finding in packed["found"]]
        other._dropped = packed["dropped"]
        other._set = {pattern: (key, test) for pattern, (key, test) in packed["set"].items()}
        other._read = {*packed["read"]}
        self.add_all(other)

    def never_read(self) -> list[Finding]:
        """Returns what was set and never read in the whole run: one for each pattern.

        There is none if too many patterns were read to know all of them.
        """
        if len(self._read) >= MOST_KEYS:
            return []
        return [
            Finding(NEVER_READ, key, test)
            for pattern, (key, test) in self._set.items()
            if pattern not in self._read
        ]

    def lines(self) -> Iterator[str]:
        """Returns a line for each kind of finding and each pattern of keys."""
        for flaw in dict.fromkeys(self.flaws):
            yield f"some may be missing or wrong: {flaw}"
        found = [*self._found, *self.never_read()]
        names = short_names(finding.test for finding in found if finding.test)
        rows: dict[tuple[str, str], list[Finding]] = {}
        for finding in found:
            rows.setdefault((finding.kind, self.patterns.fold(finding.key)), []).append(finding)
        ordered = sorted(rows.values(), key=lambda row: KINDS.index(row[0].kind))
        for first, *others in ordered[:MOST_LINES]:
            pattern = self.patterns.shown(self.patterns.fold(first.key))
            text = str(first._replace(key=pattern))
            where = names.get(first.test, "no test")
            tests = len({finding.test for finding in others} - {first.test})
            more = f" and {counted(tests, 'more test')}" if tests else ""
            yield f"{first.kind}: {text} ({where}{more})"
        if (cut := len(ordered) - MOST_LINES) > 0 or self._dropped:
            yield f"... and {max(cut, 0) + self._dropped:,} more"
