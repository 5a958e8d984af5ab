"""What others wrote is printed in one line, without characters that a terminal obeys."""

from __future__ import annotations

import io

import pytest

from sandbox import MainMemcachedRefused, OptionError, ServerError
from sandbox.errors import printable
from sandbox.inject import sources

FOREIGN = "a\x1b[31m\n::error::b"
SHOWN = r"a\x1b[31m\n::error::b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \\ text: été, 缓存, 🔑", "plain \\ text: été, 缓存, 🔑"),
        ("\x1b]0;title\x07\x9b2J\x7f\0", r"\x1b]0;title\x07\x9b2J\x7f\x00"),
        ("one\r\ntwo\u2028three\x85", r"one\r\ntwo\u2028three\x85"),
        ("\u202eright to left\u200b", r"\u202eright to left\u200b"),
        ("undecodable \udcff", r"undecodable \udcff"),
        ("a ##[error]b ##vso[c] ###", r"a #\x23[error]b #\x23vso[c] #\x23#"),
        ("\n##teamcity[x", r"\n#\x23teamcity[x"),
        ("# one # two", "# one # two"),
    ],
)
def test_printable_shows_an_escape_for_each_other_character(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "error",
    [ServerError(FOREIGN), OptionError("args", FOREIGN), MainMemcachedRefused(111, FOREIGN)],
)
def test_error_text_is_printable(error: Exception) -> None:
    assert str(error).endswith(SHOWN)


def test_failure_of_a_run_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(sources.failed(FOREIGN)) == SHOWN
    assert capsys.readouterr().err == f"sandbox: {SHOWN}\n"


def test_failure_of_a_run_is_raised_although_stderr_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    assert str(sources.failed("reason")) == "reason"
