"""Reads the options of a run, in every way in."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import OptionError
from ..inject import hooks
from ..server.options import BY_KEYWORD, Given, read

# When the caches can be emptied where Python's unittest runs the tests. pytest knows of more.
FLUSHES = ("test", "never")

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


def read_leaks(given: Mapping[str, Given], joins: bool = False) -> tuple[bool, str]:
    """Returns whether to tell of leaks, and the file to write them into, or "".

    :param given: what was typed, by the keyword of the option.
    :param joins: the run is that of another process, which tells.
    :raises OptionError: one of them is wrong, or no test is isolated.
    """
    asked = {keyword: given[keyword] for keyword in ("leaks", "leaks_json") if keyword in given}
    values = read(asked)
    path = values.get("leaks_json", "")
    if not (values.get("leaks") or path):
        return False, ""
    spelled = asked["leaks_json" if path else "leaks"].spelled
    if joins:
        in_environment = BY_KEYWORD["leaks"].variable in spelled
        if in_environment and os.environ.get(hooks.MARKS):
            return False, ""  # The owner of the run has read it there, too.
        raise OptionError(
            "leaks",
            f"{spelled}: this run is that of 'sandbox exec', which would tell: give it "
            f"{'--leaks-json' if path else '--leaks'} there",
        )
    flush = given.get("flush")
    if flush is not None and flush.value == "never":
        raise OptionError(
            "leaks", f"{spelled}: means nothing with {flush.spelled}, which isolates no test"
        )
    folder = os.path.dirname(path) or os.curdir
    if path and not os.path.isdir(folder):
        raise OptionError("leaks_json", f"{spelled}: there is no folder {folder}")
    if path and (os.path.isdir(path) or not os.access(_existing(path, folder), os.W_OK)):
        raise OptionError("leaks_json", f"{spelled}: this file cannot be written")
    return True, path


def _existing(path: str, folder: str) -> str:
    return path if os.path.exists(path) else folder


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
