"""What the project says of itself in several places is the same in each."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from importlib import metadata
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
    return yaml.safe_load(workflow)["jobs"]


def combinations(matrix: dict[str, Any]) -> Iterator[tuple[str, str]]:
    excluded = {(entry["python"], entry["django"]) for entry in matrix["exclude"]}
    for combination in itertools.product(matrix["python"], matrix["django"]):
        if combination not in excluded:
            yield combination


def test_workflow_runs_what_the_classifiers_name(jobs: dict[str, Any]) -> None:
    matrix = jobs["debian"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert matrix["django"] == DJANGOS
    # Django's own classifiers tell which versions of Python each release supports.
    here = ("{}.{}".format(*sys.version_info), "{}.{}".format(*django.VERSION))
    runs = set(combinations(matrix))
    supported = {
        f"{version}"
        for classifier in metadata.metadata("django").get_all("Classifier")
        for version in re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifier)
    }
    assert {python for python, django in runs if django == here[1]} == supported & set(PYTHONS)


def test_environments_of_tox_are_among_them(jobs: dict[str, Any]) -> None:
    environments = re.findall(r'"py3(\d+)-django([\d.]+)",', PYPROJECT)
    assert [f"3.{python}" for python, _ in environments] == PYTHONS
    assert {django for _, django in environments} == set(DJANGOS)
    runs = set(combinations(jobs["debian"]["strategy"]["matrix"]))
    assert {(f"3.{python}", django) for python, django in environments} <= runs
    assert re.findall(r'^"django([\d.]+)" = \[', PYPROJECT, re.MULTILINE) == DJANGOS


def test_jobs_run_the_commands_of_the_readme(jobs: dict[str, Any]) -> None:
    """Nothing is tested there that cannot be run here."""
    commands = {
        step["run"].removeprefix(". .ci/setup && ")
        for job in jobs.values()
        for step in job["steps"]
        if "run" in step
    }
    readme = (REPOSITORY / "README.md").read_text()
    assert commands == {
        "sh tests/run",
        "sh tests/run --all",
        "python -m tests.benchmarks",
        "python -m tests.faults",
    }
    for command in commands:
        assert re.search(rf"^{command}(  |$)", readme, re.MULTILINE), command


def test_contributing_is_short_and_right() -> None:
    lines = (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text().splitlines()
    assert len(lines) <= 60
    for path in re.findall(r"`((?:\.github|\.ci|sandbox|tests)/[\w./]*)`", "\n".join(lines)):
        assert (REPOSITORY / path).exists(), path
