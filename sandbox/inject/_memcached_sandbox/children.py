"""Reports each Python that this process starts, but that will be none of the run."""

from __future__ import annotations

import os
import posix  # gevent, eventlet and tests replace functions of os, but none of posix

from . import guard

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Where the sitecustomize of a run is.
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The names of Python's executables, without a version.
PYTHONS = ("python", "pypy")
VERSIONS = "0123456789.t"

# Words with which Python is started apart for what uses no cache.
INSTALLERS = {("-m", name) for name in ("pip", "ensurepip", "venv", "virtualenv")}

SHELLS = ("sh", "ash", "bash", "dash", "ksh", "zsh")

# Options of Python that leave out PYTHONPATH or sitecustomize: -I, -E and -S.
APART = "IES"

# Options after which there are no others, and those that are followed by a word.
LAST = "cm"
WITH_WORD = "WX"

# Bytes of the first line of a script: BINPRM_BUF_SIZE in linux/binfmts.h.
LONGEST_FIRST_LINE = 256

# What was reported already: it may happen in each test.
_reported: set[tuple[str, str]] = set()


def see_start(event: str, arguments: tuple[Any, ...]) -> None:
    """Reports the start of a program by an audit event, if it is such a Python."""
    program: Any
    folder, environ = None, None
    if event == "os.system":
        program, given = "sh", ["sh", "-c", *arguments]
    elif event == "subprocess.Popen":
        program, given, folder, environ = arguments
    else:
        program, given, environ = arguments
    environ = os.environ if environ is None else environ
    try:
        words = [os.fsdecode(word) for word in (program, *given[1:])]
        python = _python(words, _variable(environ, "PATH"), os.fsdecode(folder or ""))
        entries = _variable(environ, "PYTHONPATH").split(os.pathsep)
    except (TypeError, ValueError, AttributeError):
        return  # Python has something to say about it, too.
    if python is None or not INSTALLERS.isdisjoint(zip(python, python[1:])):
        return
    how = _apart(python)
    if not how and FOLDER not in map(os.path.abspath, entries):
        how = " without PYTHONPATH"
    if how:
        _report(f"{os.path.basename(python[0])}{how}")


def _report(how: str) -> None:
    at = guard.culprit()
    if (how, at) in _reported:
        return
    _reported.add((how, at))
    from .errors import RunError
    from .refusals import CHILD, Refusal
    from .run import current_run

    try:
        current_run().report_refusal(Refusal(how, "", at, CHILD))
    except RunError:
        pass  # It was printed. The program may need no cache.


def _variable(environ: Mapping[Any, Any], name: str) -> str:
    return os.fsdecode(environ.get(name) or environ.get(os.fsencode(name)) or "")


def _is_python(program: str) -> bool:
    return os.path.basename(program).rstrip(VERSIONS) in PYTHONS


def _python(words: list[str], path: str, folder: str) -> list[str] | None:
    """Returns a Python and its options, if a command starts one; None for another program."""
    if os.path.basename(words[0]) in SHELLS and words[1:2] == ["-c"]:
        words = _without_assignments("".join(words[2:3]).split())
    if not words:
        return None
    if not _is_python(words[0]):
        words = _interpreter(words[0], path, folder)
    return words if words and _is_python(words[0]) else None


def _interpreter(program: str, path: str, folder: str) -> list[str]:
    """Returns the words of a script's first line, which name its interpreter; none if it has none.

    :param path: where to look for a program without a folder.
    :param folder: where it will run.
    """
    for place in [""] if os.sep in program else path.split(os.pathsep):
        file = os.path.join(folder, place, program)
        if os.path.isfile(file):
            try:
                script = posix.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                return []
            try:
                line, _, _ = posix.read(script, LONGEST_FIRST_LINE).partition(b"\n")
            finally:
                posix.close(script)
            words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
            if words and os.path.basename(words[0]) == "env":
                words = _without_assignments([word for word in words[1:] if word != "-S"])
            return words
    return []


def _without_assignments(words: list[str]) -> list[str]:
    while words and "=" in words[0]:
        words = words[1:]
    return words


def _apart(python: list[str]) -> str:
    """Returns the option, after a blank, by which a Python ignores the run; "" if it has none."""
    words = iter(python[1:])
    for word in words:
        if not word.startswith("-") or word.startswith("--"):
            break
        for option in word[1:]:
            if option in APART:
                return f" -{option}"
            if option in LAST:
                return ""
            if option in WITH_WORD:
                if word.endswith(option):
                    next(words, None)
                break
    return ""
