"""What turns the plugin on or off."""

from __future__ import annotations

import re

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.plugin_suites import ON, TEST_LOCATION
from ..helpers.projects import InProcess, Project, passed


def test_switch_in_pyproject_turns_the_plugin_on(off_project: Project) -> None:
    (off_project.folder / "pytest.ini").unlink()
    off_project.write("pyproject.toml", "[tool.pytest.ini_options]\nmemcached_sandbox = true\n")
    off_project.write("test_it.py", TEST_LOCATION)
    assert passed(off_project.pytest(DJANGO_SETTINGS_MODULE="settings")) == 2


def test_switch_on_the_command_line_turns_the_plugin_on(off_project: Project) -> None:
    off_project.write("test_it.py", TEST_LOCATION)
    assert passed(off_project.pytest(ON)) == 2


@pytest.mark.parametrize(
    ("by_conftest", "arguments"),
    [
        (False, ["-p", "sandbox.pytest"]),
        (True, []),
        (True, ["-p", "sandbox.pytest", "-n", "2"]),
    ],
)
def test_plugin_that_is_named_twice_is_loaded_once(
    off_project: Project, arguments: list[str], by_conftest: bool
) -> None:
    """An installed package's plugin is loaded by itself."""
    off_project.write("test_it.py", TEST_LOCATION)
    if by_conftest:
        off_project.write("conftest.py", "pytest_plugins = ['sandbox.pytest']\n")
    result = off_project.pytest(*arguments, ON)
    assert passed(result) == 2
    assert result.stdout.count("memcached-sandbox: 64 MB, ") == 1
    assert len(re.findall(r"^memcached-sandbox: \d+ get", result.stdout, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("ini", "arguments"), [("false", []), ("true", ["-p", "no:memcached_sandbox"])]
)
def test_plugin_that_is_off_changes_nothing(
    off_project: Project, main_memcached: MainMemcached, ini: str, arguments: list[str]
) -> None:
    settings = (off_project.folder / "pytest.ini").read_text()
    off_project.write("pytest.ini", f"{settings}memcached_sandbox = {ini}\n")
    off_project.write(
        "test_it.py",
        "import os, sys\n"
        "from django.conf import settings\n"
        "def test(request):\n"
        "    print('at', settings.CACHES['default']['LOCATION'])\n"
        "    assert not any('_memcached_sandbox' in name for name in sys.modules)\n"
        "    assert not any(name.startswith('MEMCACHED_SANDBOX') for name in os.environ)\n"
        "    hooks = request.node.ihook.pytest_runtest_protocol.get_hookimpls()\n"
        "    assert not any('sandbox' in hook.plugin_name for hook in hooks)\n",
    )
    result = off_project.pytest("-s", *arguments)
    assert passed(result) == 1
    assert "memcached-sandbox:" not in result.stdout
    assert f"at {main_memcached.address}\n" in result.stdout


@pytest.mark.parametrize("name", ["memcached_sandbox", "memcached_sandbox_strict"])
def test_mistyped_switch_is_an_error(in_process: InProcess, name: str) -> None:
    in_process.write("test_it.py", TEST_LOCATION)
    result = in_process.pytest("-o", f"{name}=maybe")
    assert result.returncode == 4
    assert result.stderr == f"ERROR: -o {name}=maybe: invalid truth value 'maybe'\n\n"
    lines = {"memcached_sandbox": "true", name: "ture"}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    in_process.write("pytest.ini", f"[pytest]\n{text}")
    result = in_process.pytest()
    assert result.returncode == 4
    where = f"{in_process.folder}/pytest.ini"
    assert result.stderr == f"ERROR: {name} in {where}: invalid truth value 'ture'\n\n"


def test_plugin_named_by_a_conftest_only_starts(off_project: Project) -> None:
    off_project.write("conftest.py", "pytest_plugins = ['sandbox.pytest']\n")
    ini = (off_project.folder / "pytest.ini").read_text()
    off_project.write("pytest.ini", ini + "memcached_sandbox = true\n")
    off_project.write("test_it.py", TEST_LOCATION)
    result = off_project.pytest("-p", "django", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert passed(result) == 2


def test_file_without_a_name_is_an_error(in_process: InProcess) -> None:
    in_process.write("pytest.ini", "[pytest]\n")
    result = in_process.pytest("--memcached-sandbox-report-html=")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--memcached-sandbox-report-html=: must be a path or a name\n" in result.stderr
