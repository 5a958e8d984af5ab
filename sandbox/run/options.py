"""Reads the options of a run, in every way in."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..inject import hooks
from ..server.options import BY_KEYWORD, Given, Option, read

if TYPE_CHECKING:
    from ..inspection.wanted import Wanted

# When the caches can be emptied where Python's unittest runs the tests. pytest knows of more.
FLUSHES = ("test", "never")

# The options of what the end of a run tells of the caches, and those that are files.
FILES = ("leaks_json", "report_json", "report_html")
OF_INSPECTION = ("leaks", "report", "report_top", "findings", *FILES)

OF_RUN = [BY_KEYWORD[keyword] for keyword in ("exclude", "flush", "crawl", "guard", "no_guard")]


def read_run(given: Mapping[str, Given], flushes: Collection[str] = FLUSHES) -> dict[str, Any]:
    """Returns those arguments of `sandbox_run` that were typed, checked.

    :param given: what was typed, by the keyword of the option.
    :param flushes: when the caches can be emptied there.
    :raises OptionError: one of them is wrong.
    """
    values = read({o.keyword: given[o.keyword] for o in OF_RUN if o.keyword in given})
    no_guard = values.pop("no_guard", False)
    if "flush" in values and values["flush"] not in flushes:
        raise OptionError("flush", f"{given['flush'].spelled}: must be one of {', '.join(flushes)}")
    if values.get("guard") is not None:
        values["guard"] = _addresses(values["guard"], given["guard"].spelled)
    if no_guard:
        values["guard"] = None
    return values


def read_wanted(
    given: Mapping[str, Given], joins: bool = False, told_here: Collection[str] = ()
) -> Wanted | None:
    """Returns which reports on the caches were asked for; None for none.

    :param given: what was typed, by the keyword of the option.
    :param joins: the run is that of another process, which tells.
    :param told_here: what this process tells nevertheless.
    :raises OptionError: one of them is wrong, or a file cannot be written.
    """
    asked = {keyword: given[keyword] for keyword in OF_INSPECTION if keyword in given}
    values = {keyword: value for keyword, value in read(asked).items() if value}
    for keyword in [*values]:
        if joins and keyword not in told_here:
            _check_owner(asked[keyword].spelled, BY_KEYWORD[keyword])
            del values[keyword]
    if not values:
        return None
    from ..inspection.wanted import Wanted

    for keyword in FILES:
        if keyword in values:
            _check_file(keyword, values[keyword], asked[keyword].spelled)
            # Tests may change to another folder.
            values[keyword] = os.path.abspath(values[keyword])
    _check_apart({keyword: asked[keyword] for keyword in FILES if keyword in values})
    wanted = Wanted(**values)
    if wanted.report_html:
        _check_template_engine(asked["report_html"].spelled)
    flush = given.get("flush")
    if wanted.tells_leaks and flush is not None and flush.value == "never":
        spelled = asked["leaks" if wanted.leaks else "leaks_json"].spelled
        raise OptionError(
            "leaks", f"{spelled} means nothing with {flush.spelled}, which isolates no test"
        )
    return wanted


def _check_owner(spelled: str, option: Option) -> None:
    if option.variable in spelled and os.environ.get(hooks.MARKS):
        return  # The owner of the run has read it there, too.
    raise OptionError(
        option.keyword,
        f"{spelled}: this run is that of 'sandbox exec', which would tell: give it "
        f"{option.command_flags[-1]} there",
    )


def _check_file(keyword: str, path: str, spelled: str) -> None:
    folder = os.path.dirname(path) or os.curdir
    if not os.path.isdir(folder):
        raise OptionError(keyword, f"{spelled}: there is no folder {folder}")
    written = path if os.path.exists(path) else folder
    if os.path.isdir(path) or not os.access(written, os.W_OK):
        raise OptionError(keyword, f"{spelled}: this file cannot be written")


def _check_apart(files: Mapping[str, Given]) -> None:
    spelled: dict[str, str] = {}
    for keyword, given in files.items():
        path = os.path.realpath(given.value)
        if path in spelled:
            raise OptionError(
                keyword, f"{spelled[path]} and {given.spelled} are one file: name two"
            )
        spelled[path] = given.spelled


def _check_template_engine(spelled: str) -> None:
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "report_html",
            f"{spelled}: it needs Jinja2 ({error}): pip install 'memcached-sandbox[report]'",
        ) from None


def _addresses(texts: Sequence[str], spelled: str) -> list[str] | None:
    if "off" in texts:
        if len(texts) > 1:
            raise OptionError(
                "guard", f"{spelled}: 'off' is for no guard at all: give either it or addresses"
            )
        return None
    from ..inject import address

    try:
        return [address.Address.parse(text) for text in texts]
    except ValueError as error:
        raise OptionError("guard", f"{spelled}: {error}") from None
