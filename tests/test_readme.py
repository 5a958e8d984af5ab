"""Every command and every snippet of the README is executed here, as a reader would do it."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from pathlib import Path

import pytest

from sandbox import Memcached
from sandbox.pytest import OPTIONS as PYTEST_OPTIONS
from sandbox.server.options import OF_MEMCACHED, OPTIONS

from .conftest import REPOSITORY, Run
from .helpers.cli import Cli
from .helpers.processes import found

pytestmark = pytest.mark.slow

README = (REPOSITORY / "README.md").read_text()
OPTIONS_TABLE = README.partition("## Options")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# What runs this very test is executed already, and what only measures is left to its users.
EXECUTED_ELSEWHERE = {
    "sh tests/run",
    "sh tests/run --all",
    "python -m tests.benchmarks",
    "python -m tests.faults",
}

# What has to be executed in one shell, in this order.
SESSION = [
    'eval "$(sandbox start)"',
    "./manage.py test",
    "sandbox list",
    'eval "$(sandbox stop)"',
]


def commands() -> list[str]:
    lines = [
        re.sub(r"\s+# .*", "", line)
        for language, block in BLOCKS
        if language == "sh"
        for line in block.splitlines()
    ]
    return [line for line in dict.fromkeys(lines) if line not in EXECUTED_ELSEWHERE]


def snippets() -> dict[str, str]:
    """Return the blocks by the name of the file that they say they are; a second one has a "2"."""
    named: dict[str, str] = {}
    for language, block in BLOCKS:
        if language in ("python", "ini"):
            match = re.match(r"# (\w+\.\w+)\n", block)
            name = match[1] if match else "script.py"
            named[f"{name} 2" if name in named else name] = block
    return named


SETTINGS = """
SECRET_KEY = "only for tests"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "127.0.0.1:11211",
        "KEY_PREFIX": "shop",
    },
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project, and a test that needs its cache to be clean."""
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "manage.py").write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'settings')\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)\n"
    )
    (tmp_path / "manage.py").chmod(0o755)
    (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    (tmp_path / "run-tests.sh").write_text("#!/bin/sh\nexec ./manage.py test\n")
    (tmp_path / "run-tests.sh").chmod(0o755)
    (tmp_path / "test_cache.py").write_text(
        "import os\n"
        "from django.conf import settings\n"
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class CacheTests(SimpleTestCase):\n"
        "    def test_cache(self):\n"
        "        assert settings.CACHES['default']['LOCATION'] != '127.0.0.1:11211'\n"
        "        assert settings.CACHES['default']['KEY_PREFIX'] == 'shop'\n"
        "        assert cache.add('key', 'value')\n"
        "        assert cache.get('key') == 'value'\n"
    )
    return tmp_path


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("sandbox exec")])
def test_command(run: Run, project: Path, command: str) -> None:
    result = run("sh", "-c", command, cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^sandbox: \d+ gets .* of (64|128) MB", result.stderr, re.MULTILINE)
    assert "1 passed" in result.stdout or "Ran 1 test " in result.stderr


def test_no_command_is_forgotten() -> None:
    rest = [command for command in commands() if not command.startswith("sandbox exec")]
    assert rest == [
        "sh examples/run",
        "pip install memcached-sandbox",  # in test_install.py
        *SESSION,
        "sandbox doctor",
    ]
    assert {language for language, _ in BLOCKS} == {"sh", "python", "text", "ini"}
    assert (REPOSITORY / ".ci" / "run").read_text().endswith("\nsh tests/run --all\n")


@pytest.mark.whole_machine
def test_session(run: Run, project: Path) -> None:
    script = "\n".join(["set -e", *SESSION, "echo over: $MEMCACHED_SANDBOX_ADDRESS"])
    result = run("sh", "-c", script, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "Ran 1 test " in result.stderr
    assert re.search(r"^\w{8}  127\.0\.0\.1:\d+ .* of 64 MB", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("over:\n")


@pytest.mark.whole_machine
def test_doctor(run: Run) -> None:
    result = run("sandbox", "doctor")
    assert result.returncode == 0, result.stdout


@pytest.mark.timeout(600)  # it may have to install what it needs
def test_example_command(run: Run) -> None:
    result = run("sh", "examples/run", cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^sandbox: 31 gets \(48\.4 % hits\), 21 sets", result.stderr, re.MULTILINE)


def test_conftest(run: Run, project: Path) -> None:
    (project / "conftest.py").write_text(snippets()["conftest.py 2"])
    again = (project / "test_cache.py").read_text()
    (project / "test_cache_again.py").write_text(again)
    result = run(sys.executable, "-m", "pytest", cwd=project)
    assert "2 passed" in result.stdout, result.stdout


def test_tests_that_keep_the_cache(run: Run, project: Path) -> None:
    (project / "test_cart.py").write_text(snippets()["test_cart.py"])
    (project / "test_cache.py").unlink()
    in_order = [sys.executable, "-m", "pytest", "-p", "no:randomly"]
    for command in (["./manage.py", "test"], in_order):
        result = run("sandbox", "exec", "--", *command, cwd=project)
        assert result.returncode == 0, result.stdout + result.stderr


def test_pytest_plugin(run: Run, project: Path) -> None:
    ini = (project / "pytest.ini").read_text().partition("[pytest]\n")[2]
    (project / "pytest.ini").write_text(snippets()["pytest.ini"] + ini)
    for name in ("test_server.py", "test_catalogue.py", "conftest.py"):
        (project / name).write_text(snippets()[name])
    (project / "test_small.py").write_text(
        "def test_small(small_cache):\n"
        "    assert small_cache.servers[0].stats()['limit_maxbytes'] == str(2 << 20)\n"
    )
    result = run(sys.executable, "-m", "pytest", cwd=project)
    assert "6 passed" in result.stdout, result.stdout
    printed = found(r"(?m)^```text\n(memcached-sandbox: .*)\n(memcached.*)\n", README)
    for line in printed.groups():
        pattern = re.sub(r"\d+", r"\\d+", re.escape(line))
        assert re.search(rf"^{pattern}$", result.stdout, re.MULTILINE), pattern


@pytest.mark.parametrize("runner", ["sandbox.django.runner.SandboxRunner", "runner.Runner"])
def test_test_runner(run: Run, project: Path, runner: str) -> None:
    named = snippets()["settings.py"].replace("sandbox.django.runner.SandboxRunner", runner)
    dead = 'CACHES["dead"] = {**CACHES["default"], "LOCATION": "127.0.0.1:9"}\n'
    (project / "settings.py").write_text(SETTINGS + dead + named)
    (project / "runner.py").write_text(snippets()["runner.py"])
    result = run("./manage.py", "test", "--memcached-memory", "8", cwd=project)
    assert result.returncode == 0, result.stderr
    servers = " in the fullest of 2 servers" if runner.startswith("sandbox") else ""
    pattern = rf"^memcached-sandbox: 1 gets .* of 8 MB{servers}$"
    assert re.search(pattern, result.stdout, re.MULTILINE)


def test_unittest(run: Run, project: Path) -> None:
    (project / "test_client.py").write_text(snippets()["test_client.py"])
    result = run(sys.executable, "-m", "unittest", "test_client", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "Ran 1 test " in result.stderr


def test_test_settings(run: Run, project: Path) -> None:
    (project / "test_settings.py").write_text(snippets()["test_settings.py"])
    result = run("./manage.py", "test", "--settings", "test_settings", cwd=project)
    assert result.returncode == 0, result.stderr


def test_script(python: Run) -> None:
    result = python(snippets()["script.py"])
    assert re.fullmatch(r"127\.0\.0\.1:\d+\n", result.stdout), result.stderr


def test_no_snippet_is_forgotten() -> None:
    assert set(snippets()) == {
        "conftest.py",
        "conftest.py 2",
        "pytest.ini",
        "runner.py",
        "script.py",
        "settings.py",
        "test_cart.py",
        "test_catalogue.py",
        "test_client.py",
        "test_server.py",
        "test_settings.py",
    }


def rows() -> list[list[str]]:
    """Return the cells of the option table, without its headings."""
    lines = [line for line in OPTIONS_TABLE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_option_table_is_that_of_the_package() -> None:
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
    # What is left only the command line has.
    for environment, *others, _ in described.values():
        assert environment.startswith("`MEMCACHED_SANDBOX_")
        assert others == ["", "", ""]


def test_options_of_pytest_are_those_of_the_table() -> None:
    table = {option.word: option for option in OPTIONS if option.keyword != "no_guard"}
    assert list(PYTEST_OPTIONS) == list(table)
    for word, (kind, metavar, about) in PYTEST_OPTIONS.items():
        option = table[word]
        assert metavar == option.metavar
        assert kind == ("args" if option.repeatable else "string" if metavar else "bool")
        if word not in ("flush", "guard"):  # pytest knows of more
            assert about == option.help


def test_options_are_those_of_the_command(cli: Cli) -> None:
    table = {flag for first, *_ in rows() for flag in re.findall(r"`(--[\w-]+)", first)}
    helped = set(re.findall(r"(?<!\S)(--[\w-]+)", cli("exec", "--help").stdout))
    assert table == helped - {"--help"}


def test_options_are_those_of_pytest(run: Run) -> None:
    helped = run(sys.executable, "-m", "pytest", "--help").stdout
    assert set(re.findall(r"memcached_sandbox_\w+", OPTIONS_TABLE)) == set(
        re.findall(r"^  (memcached_sandbox_\w+)", helped, re.MULTILINE)
    )
    for flag in re.findall(r"--memcached-sandbox[\w-]*", OPTIONS_TABLE):
        assert f"  {flag}" in helped
    assert shutil.which("sandbox")
