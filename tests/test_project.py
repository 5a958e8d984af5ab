"""Facts that the project states in several places are the same in each."""

from __future__ import annotations

import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import django
import pytest
import yaml

from .conftest import REPOSITORY

PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()


def classified(prefix: str) -> list[str]:
    """Return the versions that the classifiers name after a prefix."""
    return re.findall(rf'"{prefix} :: (\d+\.\d+)"', PYPROJECT)


PYTHONS = classified("Programming Language :: Python")
DJANGOS = classified("Framework :: Django")


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    workflow = (REPOSITORY / ".github" / "workflows" / "tests.yml").read_text()
    jobs: dict[str, Any] = yaml.safe_load(workflow)["jobs"]
    return jobs


def combinations(matrix: dict[str, Any]) -> Iterator[tuple[str, str]]:
    excluded = {(entry["python"], entry["django"]) for entry in matrix["exclude"]}
    for combination in itertools.product(matrix["python"], matrix["django"]):
        if combination not in excluded:
            yield combination


def test_workflow_runs_what_the_classifiers_name(jobs: dict[str, Any]) -> None:
    matrix = jobs["debian"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert matrix["django"] == DJANGOS
    assert matrix["memcached"] == ["system", "trixie", "newest"]
    # Django's own classifiers tell which versions of Python this release supports.
    release = "{}.{}".format(*django.VERSION)
    if release not in DJANGOS:
        pytest.skip(f"Django {release} is newer than the classifiers")
    supported = {
        version
        for classifier in metadata.metadata("django").get_all("Classifier", [])
        for version in re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifier)
    }
    pythons = {python for python, version in combinations(matrix) if version == release}
    assert pythons == supported & set(PYTHONS)


def test_environments_of_tox_are_those_of_the_workflow(jobs: dict[str, Any]) -> None:
    environments = re.findall(r'"py3(\d+)-django([\d.]+)",', PYPROJECT)
    assert [f"3.{python}" for python, _ in environments] == PYTHONS
    assert {django for _, django in environments} == set(DJANGOS)
    runs = set(combinations(jobs["debian"]["strategy"]["matrix"]))
    assert {(f"3.{python}", django) for python, django in environments} <= runs
    assert re.findall(r'^"django([\d.]+)" = \[', PYPROJECT, re.MULTILINE) == DJANGOS


def test_jobs_run_the_commands_of_the_readme(jobs: dict[str, Any]) -> None:
    """A contributor can run everything that the workflow tests."""
    commands = {
        step["run"].removeprefix("tests=yes; . .ci/setup && ")
        for job in jobs.values()
        for step in job["steps"]
        if "run" in step
    }
    readme = (REPOSITORY / "README.md").read_text()
    assert commands == {
        "sh tests/run",
        "python -m tests.benchmarks",
        "python -m tests.faults",
    }
    for command in commands:
        assert re.search(rf"^{command}(  |$)", readme, re.MULTILINE), command


def test_dependencies_are_what_the_package_imports() -> None:
    """Django and pytest are the project's own: only modules for their users import them.

    Jinja2 is for those who want a page.
    """
    imported = set()
    for path in (REPOSITORY / "sandbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    own = {"sandbox", "_memcached_sandbox", "sitecustomize"}
    others = imported - sys.stdlib_module_names - own
    (line,) = re.findall(r"^dependencies = .*", PYPROJECT, re.MULTILINE)
    only_for_types = "typing_extensions"
    assert others - {"django", "jinja2", "pytest"} == {*re.findall(r'"(\w+)', line), only_for_types}


def test_contributing_is_short_and_right() -> None:
    lines = (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text().splitlines()
    assert len(lines) <= 90
    for path in re.findall(r"`((?:\.github|\.ci|sandbox|tests)/[\w./]*)`", "\n".join(lines)):
        assert (REPOSITORY / path).exists(), path


# Words that do not name the actor.
UNCLEAR = re.compile(r"\b(we|us|our|ours|ourselves|somebody|whoever|whom)\b", re.IGNORECASE)

MOST_WORDS = 20  # of the first sentence of a docstring


def undecorated_docstrings(path: Path) -> Iterator[str]:
    """Return docstrings, but for those of errors, properties, commands and fixtures."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Refused")):
            continue
        if not getattr(node, "decorator_list", []) and (docstring := ast.get_docstring(node)):
            yield docstring


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Return the docstrings, the comments and the other strings of a module, with their kind."""
    source = path.read_text()
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                docstrings.add(docstring)
                yield "docstring", docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield "comment", token.string
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and value not in docstrings:
            yield "string", value


MODULES = sorted((REPOSITORY / "sandbox").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_prose_is_plain(path: Path) -> None:
    for kind, text in texts(path):
        assert not (unclear := UNCLEAR.search(text)), f"{unclear}: {text}"
        if kind == "docstring":
            first = re.split(r"(?<=[.:])\s", " ".join(text.split()))[0]
            assert len(first.split()) <= MOST_WORDS, first
    for docstring in undecorated_docstrings(path):
        assert docstring.split()[0].rstrip(":").endswith("s"), f"begin with a verb: {docstring}"


def test_prose_of_the_tests_names_the_actor() -> None:
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        for kind, text in texts(path):
            unclear = None if kind == "string" else UNCLEAR.search(text)
            assert not unclear, f"{path}: {unclear}: {text}"
