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

# Commands of one shell, in this order.
SESSION = [
    'eval "$(sandbox start)" && ./manage.py test',
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
    """Return blocks by the file name in their first line; a second one of a name has a "2"."""
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
def test_exec_command_passes(run: Run, project: Path, command: str) -> None:
    result = run("sh", "-c", command, cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^sandbox: \d+ gets? .* of (64|128) MB", result.stderr, re.MULTILINE)
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
def test_shell_session_passes(run: Run, project: Path) -> None:
    script = "\n".join(["set -e", *SESSION, "echo over: $MEMCACHED_SANDBOX_ADDRESS"])
    result = run("sh", "-c", script, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "Ran 1 test " in result.stderr
    assert re.search(r"^\w{8}  127\.0\.0\.1:\d+ .* of 64 MB", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("over:\n")


@pytest.mark.whole_machine
def test_doctor_command_succeeds(run: Run) -> None:
    result = run("sandbox", "doctor")
    assert result.returncode == 0, result.stdout


@pytest.mark.timeout(600)  # it may have to install what it needs
def test_example_command_succeeds(run: Run) -> None:
    result = run("sh", "examples/run", cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^sandbox: 31 gets \(48\.4 % hits\), 21 sets", result.stderr, re.MULTILINE)


def test_conftest_snippet_gives_each_test_clean_caches(run: Run, project: Path) -> None:
    (project / "conftest.py").write_text(snippets()["conftest.py 2"])
    again = (project / "test_cache.py").read_text()
    (project / "test_cache_again.py").write_text(again)
    result = run(sys.executable, "-m", "pytest", cwd=project)
    assert "2 passed" in result.stdout, result.stdout


def test_keep_cache_snippet_passes(run: Run, project: Path) -> None:
    (project / "test_cart.py").write_text(snippets()["test_cart.py"])
    (project / "test_cache.py").unlink()
    in_order = [sys.executable, "-m", "pytest", "-p", "no:randomly"]
    for command in (["./manage.py", "test"], in_order):
        result = run("sandbox", "exec", "--", *command, cwd=project)
        assert result.returncode == 0, result.stdout + result.stderr


def test_snippets_of_the_pytest_plugin_pass(run: Run, project: Path) -> None:
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
def test_snippets_of_the_test_runner_pass(run: Run, project: Path, runner: str) -> None:
    named = snippets()["settings.py"].replace("sandbox.django.runner.SandboxRunner", runner)
    dead = 'CACHES["dead"] = {**CACHES["default"], "LOCATION": "127.0.0.1:9"}\n'
    (project / "settings.py").write_text(SETTINGS + dead + named)
    (project / "runner.py").write_text(snippets()["runner.py"])
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


def test_settings_snippet_passes(run: Run, project: Path) -> None:
    (project / "test_settings.py").write_text(snippets()["test_settings.py"])
    result = run("./manage.py", "test", "--settings", "test_settings", cwd=project)
    assert result.returncode == 0, result.stderr


def test_script_snippet_prints_an_address(python: Run) -> None:
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
