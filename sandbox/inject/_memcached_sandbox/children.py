"""Reports each Python that this process starts, but that will be none of the run."""

from __future__ import annotations

import os
import posix  # gevent, eventlet and tests replace functions of os, but none of posix

from . import guard

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

# Where the sitecustomize of a run is.
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The names of Python's executables, without a version.
PYTHONS = ("python", "pypy")
VERSIONS = "0123456789.t"

# Words with which Python is started apart for what uses no cache.
INSTALLERS = {("-m", name) for name in ("pip", "ensurepip", "venv", "virtualenv")}

SHELLS = ("sh", "ash", "bash", "dash", "ksh", "zsh")

# What stands between the commands of a shell.
BETWEEN = ";&|()\n"

# Programs that start the one that follows, with options of their own before it.
LAUNCHERS = ("env", "exec", "nice", "nohup", "setsid", "stdbuf", "timeout")

# Options of env by which PYTHONPATH is lost.
UNSETTING = ("-i", "-", "--ignore-environment", "-uPYTHONPATH", "--unset=PYTHONPATH")

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
        # os.execvp() tries each folder of PATH.
        is_exact = event == "os.exec" or (event == "os.posix_spawn" and os.sep in words[0])
        if is_exact and not posix.access(words[0], os.X_OK):
            return
        places = (_variable(environ, "PATH"), os.fsdecode(folder or ""))
        pythons = [*_pythons(words, _variable(environ, "PYTHONPATH"), *places)]
    except (TypeError, ValueError, AttributeError):
        return  # Python has something to say about it, too.
    for python, entries in pythons:
        if INSTALLERS.isdisjoint(zip(python, python[1:])):
            how = _apart(python)
            if not how and FOLDER not in map(os.path.abspath, entries.split(os.pathsep)):
                how = " without PYTHONPATH"
            if how:
                _report(f"{os.path.basename(python[0])}{how}")


def _report(how: str) -> None:
    at = guard.culprit()
    if (how, at) in _reported:
        return
    from .errors import RunError
    from .refusals import CHILD, Refusal
    from .run import current_run

    try:
        current_run().report_refusal(Refusal(how, "", at, CHILD))
    except RunError:
        return  # It was printed. The program may need no cache.
    _reported.add((how, at))


def _variable(environ: Mapping[Any, Any], name: str) -> str:
    # os.environ takes no bytes.
    in_bytes = None if environ is os.environ else environ.get(os.fsencode(name))
    return os.fsdecode(environ.get(name) or in_bytes or "")


def _is_python(program: str) -> bool:
    return os.path.basename(program).rstrip(VERSIONS) in PYTHONS


def _pythons(
    words: list[str], entries: str, path: str, folder: str
) -> Iterator[tuple[list[str], str]]:
    """Finds each Python that a command starts: its words, and its PYTHONPATH."""
    words, entries = _launched(words, entries)
    if words and os.path.basename(words[0]) in SHELLS:
        for command in _commands(_script(words)):
            yield from _pythons(command, entries, path, folder)
        return
    if words and not _is_python(words[0]):
        words, entries = _launched(_interpreter(words[0], path, folder), entries)
    if words and _is_python(words[0]):
        yield words, entries


def _launched(words: list[str], entries: str) -> tuple[list[str], str]:
    """Returns the program behind assignments and launchers, with its words and PYTHONPATH."""
    launcher = ""
    while words:
        name, equals, value = words[0].partition("=")
        program = os.path.basename(words[0])
        if equals and name.isidentifier():
            if name == "PYTHONPATH" and "$" not in value:
                entries = value
        elif program in LAUNCHERS:
            launcher = program
        elif not launcher or _is_python(program) or program in SHELLS or os.sep in words[0]:
            break
        elif launcher == "env" and (words[0] in UNSETTING or words[:2] == ["-u", "PYTHONPATH"]):
            entries = ""
        words = words[1:]
    return words, entries


def _script(words: list[str]) -> str:
    """Returns the commands that a shell is given with -c."""
    is_given = False
    others = iter(words[1:])
    for word in others:
        if not word.startswith(("-", "+")):
            return word if is_given else ""
        if not word.startswith("--"):
            is_given = is_given or "c" in word
            if word.endswith(("o", "O")):
                next(others, None)
    return ""


def _commands(script: str) -> Iterator[list[str]]:
    """Splits what a shell is given into commands, as far as it can be seen without a shell."""
    from shlex import shlex

    lexer = shlex(script.replace("\\\n", ""), posix=True, punctuation_chars=f"{BETWEEN}<>")
    lexer.whitespace, lexer.whitespace_split = " \t", True
    words: list[str] = []
    for token in lexer:
        if token.startswith("<<"):
            break  # What follows are lines of text.
        if token.strip(BETWEEN):
            words.append(token)
        else:
            yield words
            words = []
    yield words


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
            return os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    return []


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
