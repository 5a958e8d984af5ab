"""Settings that take sandbox addresses themselves: from a variable, or by `sandboxed`."""

from __future__ import annotations

from ..helpers.django_runs import SHOW_LOCATIONS, address_of, servers_of
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import MakeProject, Project
from ..helpers.suites import CLEAN_CACHE


def test_no_inject_leaves_the_settings_as_they_are(
    project: Project, main_memcached: MainMemcached
) -> None:
    result = project.sandboxed("--no-inject", "--", "./manage.py", "shell", "-c", SHOW_LOCATIONS)
    assert f"default {main_memcached.address}\n" in result.stdout


def test_sandboxed_in_settings_repoints_with_no_inject(project: Project) -> None:
    settings = (project.folder / "settings.py").read_text()
    helped = settings.replace("CACHES = ", "CACHES = sandboxed(") + ")\n"
    project.write("settings.py", "from sandbox.django import sandboxed\n" + helped)
    result = project.sandboxed(
        "-v", "--no-inject", "--", "./manage.py", "shell", "-c", SHOW_LOCATIONS
    )
    assert f"default {address_of(result)}\n" in result.stdout


def test_sandboxed_in_settings_adds_no_server(project: Project) -> None:
    settings = (project.folder / "settings.py").read_text()
    project.write(
        "settings.py",
        "from sandbox.django import sandboxed\n"
        + settings.replace("CACHES = ", "CACHES = sandboxed(")
        + ")\n",
    )
    project.write("tests.py", CLEAN_CACHE)
    assert servers_of(project.test()) == 1
    assert servers_of(project.test("--parallel", "2")) == 3


def test_variables_name_each_of_several_servers(project: Project) -> None:
    result = project.sandboxed(
        "--servers",
        "2",
        "--env",
        "URLS={address1},{address2},{port2}",
        "--",
        "printenv",
        "URLS",
    )
    first, second, port = result.stdout.rstrip().split(",")
    assert first != second == f"127.0.0.1:{port}"
    result = project.sandboxed("--servers", "2", "--env", "URL={address3}", "--", "true")
    assert "{address3} in 'URL={address3}' is none of {address}" in result.stderr
    assert result.returncode == 2


def test_url_in_a_variable_is_repointed_in_each_worker(make_project: MakeProject) -> None:
    project = make_project("PLACE")
    settings = (project.folder / "settings.py").read_text()
    project.write(
        "settings.py", "import os\n" + settings.replace("'PLACE'", "os.environ['CACHE_URL']")
    )
    project.write("tests.py", CLEAN_CACHE)
    for arguments in ([], ["--parallel", "3"]):
        result = project.sandboxed(
            "--env", "CACHE_URL={address}", "--", "./manage.py", "test", *arguments
        )
        assert result.returncode == 0, result.stderr
