"""Names a test runner in a project's settings, and reads what a run of the project prints."""

from __future__ import annotations

from .processes import Result, found
from .projects import Project, summary

RUNNER = 'TEST_RUNNER = "sandbox.django.runner.SandboxRunner"\n'

# For `manage.py shell`: prints where each alias is.
SHOW_LOCATIONS = (
    "from django.conf import settings\n"
    "for alias, config in settings.CACHES.items(): print(alias, config.get('LOCATION'))\n"
)


def servers_of(result: Result) -> int:
    """Return how many servers a run under `sandbox exec` had, as its summary says."""
    summary = r"peak memory .* MB(?: in the fullest of (\d+) servers)?$"
    return int(found(summary, result.stderr.rstrip())[1] or 1)


def address_of(result: Result) -> str:
    """Return the address of the server that `sandbox exec -v` has started."""
    return found(r"memcached at (\S+),", result.stderr)[1]


def with_runner(project: Project, runner: str = RUNNER) -> Project:
    """Add a line to the project's settings that names a test runner."""
    project.write("settings.py", (project.folder / "settings.py").read_text() + runner)
    return project


def passes(result: Result) -> str:
    """Return the line about the cache of a run that has passed, without its prefix."""
    assert result.returncode == 0, result.stdout + result.stderr
    return summary(result)
