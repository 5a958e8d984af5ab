"""The option table of the README has the options of the command, of pytest and of Memcached."""

from __future__ import annotations

import inspect
import re
import sys

import pytest

from sandbox import Memcached
from sandbox.pytest import OPTIONS as PYTEST_OPTIONS
from sandbox.server.options import OF_MEMCACHED, OF_PYTEST, OPTIONS

from .conftest import REPOSITORY, Run
from .helpers.cli import Cli

pytestmark = pytest.mark.slow

README = (REPOSITORY / "README.md").read_text()
OPTIONS_TABLE = README.partition("## Options")[2].partition("\n## ")[0]


def rows() -> list[list[str]]:
    """Return the cells of the option table, without its headings."""
    lines = [line for line in OPTIONS_TABLE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_table_has_the_options_of_the_package() -> None:
    described = {cells[0]: cells[1:] for cells in rows()}
    for option in OPTIONS:
        flags = [*option.command_flags]
        (first,) = [cell for cell in described if re.findall(r"`(-[\w-]+)", cell) == flags]
        environment, of_pytest, of_runner, in_python, _ = described.pop(first)
        assert environment == f"`{option.variable}`"
        assert of_runner == f"`--memcached-{option.word.replace('_', '-')}`"
        if option.word in PYTEST_OPTIONS:
            assert of_pytest == f"`memcached_sandbox_{option.word}`"
        if option in OF_MEMCACHED:
            default = inspect.signature(Memcached).parameters[option.keyword].default
            assert in_python == f"`{option.keyword}={default!r}`"
    (trace,) = OF_PYTEST
    assert described.pop("")[:3] == [f"`{trace.variable}`", "`memcached_sandbox_trace`", ""]
    # The other rows are options of the command line only.
    for environment, *others, _ in described.values():
        assert environment.startswith("`MEMCACHED_SANDBOX_")
        assert others == ["", "", ""]


def test_pytest_plugin_has_the_options_of_the_package() -> None:
    options = (*OPTIONS, *OF_PYTEST)
    table = {option.word: option for option in options if option.keyword != "no_guard"}
    assert list(PYTEST_OPTIONS) == list(table)
    for word, (kind, metavar, about) in PYTEST_OPTIONS.items():
        option = table[word]
        assert metavar == option.metavar or word == "flush"  # pytest knows of more
        assert kind == ("args" if option.repeatable else "string" if metavar else "bool")
        assert about == option.help or word == "flush"


def test_table_has_the_options_of_the_command(cli: Cli) -> None:
    table = {flag for first, *_ in rows() for flag in re.findall(r"`(--[\w-]+)", first)}
    helped = set(re.findall(r"(?<!\S)(--[\w-]+)", cli("exec", "--help").stdout))
    assert table == helped - {"--help"}


def test_table_has_the_options_of_pytest(run: Run) -> None:
    helped = run(sys.executable, "-m", "pytest", "--help").stdout
    assert set(re.findall(r"memcached_sandbox_\w+", OPTIONS_TABLE)) == set(
        re.findall(r"^  (memcached_sandbox_\w+)", helped, re.MULTILINE)
    )
    for flag in re.findall(r"--memcached-sandbox[\w-]*", OPTIONS_TABLE):
        assert f"  {flag}" in helped
