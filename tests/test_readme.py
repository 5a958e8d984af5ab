"""Each command and each snippet of the README runs as a reader would run it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY, Run
from .helpers.processes import found

pytestmark = pytest.mark.slow

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# Commands that run these tests, or only measure.
EXECUTED_ELSEWHERE = {
    "sh tests/run",
    "sh tests/run --all",
    "python -m tests.benchmarks",
    "python -m tests.faults",
}

INSTALL = ["pip install memcached-sandbox", "sandbox install"]

# What goes into the configuration of a CI, a container or a tool.
RECIPE = [
    "pip install -r requirements.txt memcached-sandbox && sandbox install",
    "sandbox exec -- python manage.py test --parallel",
]

# Commands of one shell, in this order.
SESSION = [
    'eval "$(sandbox start)" && ./manage.py test',
    "sandbox list",
    'eval "$(sandbox stop)"',
    "sandbox doctor",
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
    """Return blocks by the file name in their first line."""
    named: dict[str, str] = {}
    for language, block in BLOCKS:
        if language in ("python", "ini"):
            match = re.match(r"# (\w+\.\w+)\n", block)
            assert match, block
            assert match[1] not in named
            named[match[1]] = block
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
def test_exec_command_passes(run: Run, project: Path, command: str) -> None:
    result = run("sh", "-c", command, cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^sandbox: \d+ gets? .* of (64|128) MB", result.stderr, re.MULTILINE)
    assert "1 passed" in result.stdout or "Ran 1 test " in result.stderr


def test_no_command_is_forgotten() -> None:
    rest = [command for command in commands() if not command.startswith("sandbox exec")]
    assert rest == [
        *INSTALL,  # in test_install.py, as RECIPE is
        "sh examples/run",
        *SESSION,
        RECIPE[0],
    ]
    assert {language for language, _ in BLOCKS} == {"sh", "python", "text", "ini"}
    assert (REPOSITORY / ".ci" / "run").read_text().endswith("\nsh tests/run --all\n")


@pytest.mark.whole_machine
def test_shell_session_passes(run: Run, project: Path) -> None:
    script = "\n".join(["set -e", *SESSION, "echo over: $MEMCACHED_SANDBOX_ADDRESS"])
    result = run("sh", "-c", script, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "Ran 1 test " in result.stderr
    assert re.search(r"^\w{8}  127\.0\.0\.1:\d+ .* of 64 MB", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("over:\n")


def test_output_of_the_first_command_is_real(run: Run) -> None:
    (shown,) = (block for language, block in BLOCKS if "Ran 12 tests" in block)
    result = run(
        *("sh", "-c", "sandbox exec -- python manage.py test 2>&1"),
        cwd=REPOSITORY / "examples/bookshop",
        PYTHONUNBUFFERED="1",
    )
    seconds, memory = re.compile(r"\d\.\d{3}s"), re.compile(r"memory \d\.\d of")
    printed, expected = (
        memory.sub("memory", seconds.sub("", text)) for text in (result.stdout, shown)
    )
    assert printed.endswith(f"\n{expected}")


@pytest.mark.timeout(600)  # it may have to install what it needs
def test_example_command_succeeds(run: Run) -> None:
    result = run("sh", "examples/run", cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^sandbox: 40 gets \(47\.5 % hits\), 23 sets", result.stderr, re.MULTILINE)


def test_conftest_snippet_gives_a_test_clean_caches(run: Run, project: Path) -> None:
    (project / "conftest.py").write_text(snippets()["conftest.py"])
    ini = (project / "pytest.ini").read_text()
    (project / "pytest.ini").write_text(f"{ini}usefixtures = clean_caches\n")
    again = (project / "test_cache.py").read_text()
    (project / "test_cache_again.py").write_text(again)
    result = run(sys.executable, "-m", "pytest", cwd=project)
    assert "2 passed" in result.stdout, result.stdout


def test_snippets_of_the_pytest_plugin_pass(run: Run, project: Path) -> None:
    ini = (project / "pytest.ini").read_text().partition("[pytest]\n")[2]
    (project / "pytest.ini").write_text(snippets()["pytest.ini"] + ini)
    of_fixtures = (
        "def test_small(small_cache):\n"
        "    assert small_cache.servers[0].stats()['limit_maxbytes'] == str(2 << 20)\n"
        "def test_further(memcached_factory):\n"
        "    assert memcached_factory(memory_mb=8).items() == []\n"
    )
    (project / "test_catalogue.py").write_text(snippets()["test_catalogue.py"] + of_fixtures)
    (project / "test_menu.py").write_text(snippets()["test_menu.py"])
    # pytest-randomly would have the test that finds come before the one that fills.
    result = run(sys.executable, "-m", "pytest", "-p", "no:randomly", cwd=project)
    assert "7 passed" in result.stdout, result.stdout
    printed = found(r"`(memcached-sandbox: .*)`\.\n.*`(memcached-sandbox: .*)`", README)
    for line in printed.groups():
        pattern = re.sub(r"\d+", r"\\d+", re.escape(line)).replace("sets", "sets?")
        assert re.search(rf"^{pattern}$", result.stdout, re.MULTILINE), pattern
    (project / "test_outages.py").write_text(snippets()["test_outages.py"])
    result = run(sys.executable, "-m", "pytest", "test_outages.py", cwd=project)
    assert "2 passed" in result.stdout, result.stdout
    assert "3 outages" in result.stdout


@pytest.mark.parametrize("runner", ["sandbox.django.SandboxRunner", "runner.Runner"])
def test_snippets_of_the_test_runner_pass(run: Run, project: Path, runner: str) -> None:
    named = snippets()["settings.py"].replace("sandbox.django.SandboxRunner", runner)
    dead = 'CACHES["dead"] = {**CACHES["default"], "LOCATION": "127.0.0.1:9"}\n'
    (project / "settings.py").write_text(SETTINGS + dead + named)
    own = found(r"`SandboxRunnerMixin`, with `(memcached_e.*?)` or `(memcached_o.*?)`", README)
    (project / "runner.py").write_text(
        "from django.test.runner import DiscoverRunner\n"
        "from sandbox.django import SandboxRunnerMixin\n"
        "class Runner(SandboxRunnerMixin, DiscoverRunner):\n"
        f"    {own[1]}\n    {own[2]}\n"
    )
    result = run("./manage.py", "test", "--memcached-memory", "8", cwd=project)
    assert result.returncode == 0, result.stderr
    servers = " in the fullest of 2 servers" if runner.startswith("sandbox") else ""
    pattern = rf"^memcached-sandbox: 1 get .* of 8 MB{servers}$"
    assert re.search(pattern, result.stdout, re.MULTILINE)


def test_unittest_snippet_passes(run: Run, project: Path) -> None:
    (project / "test_client.py").write_text(snippets()["test_client.py"])
    result = run(sys.executable, "-m", "unittest", "test_client", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "Ran 1 test " in result.stderr
    assert re.fullmatch(r"127\.0\.0\.1:\d+\n", result.stdout)


def test_line_for_test_settings_passes(run: Run, project: Path) -> None:
    line = found(r"`(CACHES = sandboxed\(.*?\))`", README)[1]
    (project / "test_settings.py").write_text(
        f"from sandbox.django import sandboxed\nfrom settings import *\n{line}\n"
    )
    result = run("./manage.py", "test", "--settings", "test_settings", cwd=project)
    assert result.returncode == 0, result.stderr


def test_no_snippet_is_forgotten() -> None:
    assert set(snippets()) == {
        "conftest.py",
        "pytest.ini",
        "settings.py",
        "test_catalogue.py",
        "test_client.py",
        "test_menu.py",
        "test_outages.py",
    }
