"""Leaks and reports of whole runs: in each way in, in one process and in several."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import Run
from ..helpers.cli import Cli
from ..helpers.django_runs import with_runner
from ..helpers.memcacheds import MainMemcached
from ..helpers.pages import Page
from ..helpers.processes import Result
from ..helpers.projects import InProcess, MakeProject, Project, pytest_command
from ..helpers.suites import LEAKS, START_METHODS

DISTRIBUTED = ("-n2", "--dist=loadscope")


@pytest.fixture
def project(make_project: MakeProject, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project with three leaks."""
    project = make_project(main_memcached.address)
    project.write("tests.py", LEAKS)
    yield project
    main_memcached.assert_untouched()


def leaks(result: Result, dot: str = ".", prefix: str = "sandbox: ") -> str:
    """Checks that the leaks were found, and returns which tests were compared."""
    assert result.returncode == 0, result.stdout + result.stderr
    text = result.stdout + result.stderr
    told = re.search(
        rf"(?m)^{prefix}without isolation 3 keys of 3 tests would have reached 3 others(.*):\n"
        r"((?:  .*\n)+)",
        text,
    )
    assert told, text
    assert sorted(told[2].splitlines()) == [
        f"  :1:{name}:#   {cls}{dot}test_1_sets -> {cls}{dot}test_2_reads"
        for cls, name in (("Books", "book"), ("Carts", "cart"), ("Users", "user"))
    ]
    return told[1]


def assert_page(project: Project) -> None:
    """The page r.html has the timelines of all tests."""
    page = Page((project.folder / "r.html").read_text())
    assert len(page.tables[1]) == 1 + 15
    for name in ("book", "cart", "user"):
        assert [f"set :1:{name}:1 60 s, 1 byte"] in page.steps
        assert [f"get :1:{name}:1 miss"] in page.steps


def test_leaks_under_exec(project: Project) -> None:
    options = ("--leaks-json=l.json", "--report-top=2", "--findings", "--report-json=r.json")
    result = project.sandboxed(*options, "--report-html=r.html", "--", "./manage.py", "test")
    assert_page(project)
    assert leaks(result) == ""
    assert re.search(
        r"\nsandbox: keys with most operations, of 6:\n"
        r"  key +gets    hits   sets   expiry   bytes   tests\n"
        r"  :1:own +2   100 %      2    300 s       2       2\n"
        r"  :1:book:# +2     0 %      1     60 s       1       3\n"
        r"sandbox: tests with most operations, of 15:\n",
        result.stderr,
    ), result.stderr
    assert len(json.loads((project.folder / "r.json").read_text())["tests"]) == 15
    assert "\nsandbox: no findings\n" in result.stderr
    written = json.loads((project.folder / "l.json").read_text())
    assert (written["tests"], written["workers"], len(written["leaks"])) == (15, 1, 3)
    assert written["leaks"][0]["left_by"].startswith("tests.")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_leaks_of_workers_under_exec(project: Project, start_method: str) -> None:
    command = ("./manage.py", "test", "--parallel", "3")
    options = ("--leaks", "--report-html=r.html")
    result = project.sandboxed(*options, "--", *command, START_METHOD=start_method)
    leaks(result)  # One worker may have run all.
    assert_page(project)


def test_leaks_of_xdist_under_exec(project: Project) -> None:
    result = project.sandboxed("--leaks", "--", *pytest_command(*DISTRIBUTED, "tests.py"))
    leaks(result, "::")


def test_leaks_with_the_plugin(django_in_process: InProcess) -> None:
    django_in_process.write("test_it.py", LEAKS)
    result = django_in_process.pytest("--memcached-sandbox-leaks", "-q")
    assert leaks(result, "::", "memcached-sandbox: ") == ""


def test_leaks_of_xdist_with_the_plugin(project: Project) -> None:
    options = ("--memcached-sandbox-report-html=r.html", "--memcached-sandbox-leaks-json=l.json")
    result = project.pytest(*DISTRIBUTED, *options, "tests.py")
    leaks(result, "::", "memcached-sandbox: ")
    assert_page(project)
    assert len(json.loads((project.folder / "l.json").read_text())["leaks"]) == 3


@pytest.mark.parametrize("arguments", [(), ("--parallel", "3")])
def test_leaks_with_the_runner(project: Project, arguments: tuple[str, ...]) -> None:
    options = ("--memcached-leaks", "--memcached-report", "--memcached-findings")
    page = "--memcached-report-html=r.html"
    result = with_runner(project).manage("test", *options, page, *arguments)
    leaks(result, prefix="memcached-sandbox: ")
    assert_page(project)
    assert "\nmemcached-sandbox: tests with most operations, of 15:\n" in result.stdout
    assert "\nmemcached-sandbox: no findings\n" in result.stdout


def test_kept_caches_and_further_attempts_are_no_leaks(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import pytest\n"
        "from django.core.cache import cache\n"
        "@pytest.mark.keep_cache('class')\n"
        "class TestKept:\n"
        "    def test_sets(self): cache.set('kept', 1)\n"
        "    def test_reads(self): assert cache.get('kept') == 1\n"
        "@pytest.mark.flaky(reruns=1)\n"
        "def test_again():\n"
        "    assert cache.get('again') is None\n"
        "    cache.set('again', 1)\n"
        "    global attempts; attempts += 1\n"
        "    assert attempts == 2\n"
        "attempts = 0\n",
    )
    result = django_in_process.pytest("--memcached-sandbox-leaks", "-prerunfailures")
    assert "1 rerun" in result.stdout, result.stdout
    assert "without isolation none of 3 tests would have reached another\n" in result.stdout


def test_servers_that_start_within_a_test_are_marked(project: Project) -> None:
    """As where the first test loads Django's settings."""
    with (project.folder / "settings.py").open("a") as settings:
        settings.write('CACHES["second"] = {**CACHES["default"], "LOCATION": "127.0.0.1:9"}\n')
    project.write(
        "tests.py",
        "import unittest\n"
        "from django.core.cache import caches\n"
        "class Tests(unittest.TestCase):\n"
        "    def test_a(self): caches['second'].set('key', 1)\n"
        "    def test_b(self): assert caches['second'].get('key') is None\n",
    )
    command = (sys.executable, "-m", "unittest", "tests")
    result = project.sandboxed("--leaks", "--", *command, DJANGO_SETTINGS_MODULE="settings")
    assert "\n  :1:key   Tests.test_a -> Tests.test_b\n" in result.stderr, result.stderr


def test_first_test_that_starts_the_server_leaks(in_process: InProcess) -> None:
    in_process.write(
        "test_it.py",
        "from contextlib import closing\n"
        "def test_a(memcached):\n"
        "    with closing(memcached.client()) as client: client.set('key', 1)\n"
        "def test_b(memcached):\n"
        "    with closing(memcached.client()) as client: client.get('key')\n",
    )
    result = in_process.pytest("--memcached-sandbox-leaks")
    assert "\n  key   test_it.py::test_a -> test_it.py::test_b\n" in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--leaks", "--flush=never"], "--leaks means nothing with --flush never, which isolates"),
        (["--leaks", "--no-inject"], "--leaks means nothing with --no-inject, which changes"),
        (["--leaks-json", "a/b", "--no-inject"], "--leaks-json a/b: there is no folder a"),
        (["--leaks-json", "."], "--leaks-json .: this file cannot be written"),
        (["--report-json", "a/b"], "--report-json a/b: there is no folder a"),
        (["--leaks-json=a", "--report-json=a"], "--leaks-json a and --report-json a are one file"),
        (["--report-html", "a/b"], "--report-html a/b: there is no folder a"),
        (["--report-html=a", "--report-json=./a"], "--report-json ./a and --report-html a are one"),
        (["--report-top", "0"], "--report-top 0: must be 1 or more"),
        (["--report-top", "x"], "--report-top x: must be a whole number"),
        (["--findings", "--no-inject"], "--findings means nothing with --no-inject, which changes"),
        (["--leaks-json", ""], "--leaks-json : must be a path or a name"),
    ],
)
def test_leaks_that_cannot_be_told_are_an_error(
    cli: Cli, arguments: list[str], problem: str
) -> None:
    result = cli("exec", *arguments, "--", "true")
    assert result.returncode == 2
    assert result.stderr.startswith(f"sandbox: {problem}"), result.stderr
    assert result.stderr.count("\n") == 1


def test_page_without_its_template_engine_is_an_error(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = cli("exec", f"--report-html={tmp_path / 'page'}", "--", "true")
    assert result.returncode == 2
    assert re.fullmatch(
        r"sandbox: --report-html .*/page: it needs Jinja2 \(.*\): "
        r"pip install 'memcached-sandbox\[report\]'\. .*\n",
        result.stderr,
    ), result.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("flush=never", "--memcached-sandbox-leaks means nothing with --memcached-sandbox-flush"),
        ("leaks-json=a/b", "--memcached-sandbox-leaks-json=a/b: there is no folder a"),
    ],
)
def test_leaks_that_the_plugin_cannot_tell_are_an_error(
    in_process: InProcess, option: str, problem: str
) -> None:
    result = in_process.pytest("--memcached-sandbox-leaks", f"--memcached-sandbox-{option}")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {problem}" in result.stderr


def test_session_that_joins_a_run_names_its_owner(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCACHED_SANDBOX_CONTROL", "/nowhere/control")
    result = in_process.pytest("--memcached-sandbox-leaks")
    assert (
        "ERROR: --memcached-sandbox-leaks: this run is that of 'sandbox exec', which would tell: "
        "give it --leaks there\n"
    ) in result.stderr


def test_option_in_the_environment_is_for_the_owner_of_the_run(project: Project) -> None:
    options = ("--memcached-sandbox", "tests.py")
    result = project.sandboxed(
        *("--", *pytest_command(*options)),
        MEMCACHED_SANDBOX_LEAKS="1",
        MEMCACHED_SANDBOX_LEAKS_JSON="l.json",
    )
    leaks(result, "::")
    assert "of leaks" not in result.stdout + result.stderr
    assert len(json.loads((project.folder / "l.json").read_text())["leaks"]) == 3


def test_killed_worker_is_told(project: Project) -> None:
    project.write(
        "tests.py",
        "import os, signal\n"
        "def test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def test_lives(): pass\n",
    )
    result = project.pytest("-n1", "--memcached-sandbox-leaks", "tests.py")
    assert (
        "\nmemcached-sandbox: leaks may be missing or wrong: a worker has ended too early to tell "
        "what its tests did\n"
    ) in result.stdout


def test_file_that_cannot_be_written_at_the_end_fails_the_run(project: Project) -> None:
    project.write("remove.sh", "#!/bin/sh\nrmdir folder && ./manage.py test tests.CleanTests\n")
    (project.folder / "folder").mkdir()
    result = project.sandboxed("--leaks-json=folder/l.json", "--", "./remove.sh")
    assert result.returncode == 125
    assert (
        f"\nsandbox: {project.folder}/folder/l.json cannot be written: No such file or directory.\n"
    ) in result.stderr


def test_files_lie_where_the_run_began(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_it.py",
        "import os\ndef test_goes_elsewhere(tmp_path):\n    os.chdir(tmp_path)\n",
    )
    files = {"leaks-json": "l.json", "report-json": "r.json", "report-html": "r.html"}
    options = [f"--memcached-sandbox-{option}={file}" for option, file in files.items()]
    folder = Path.cwd()
    try:
        result = django_in_process.pytest(*options)
    finally:
        os.chdir(folder)
    assert result.returncode == 0, result.stdout
    assert all((django_in_process.folder / file).exists() for file in files.values())


def test_quiet_run_tells_of_evictions_as_a_finding(plain: Project) -> None:
    plain.write(
        "evict.py",
        "import os\n"
        "from sandbox import Server\n"
        "client = Server(os.environ['MEMCACHED_SANDBOX_ADDRESS']).client()\n"
        "for number in range(100): client.set(f'k{number}', b'x' * 100_000, 60)\n",
    )
    options = ("--quiet", "--findings", "--memory=4")
    result = plain.sandboxed(*options, "--", sys.executable, "evict.py")
    assert re.search(r"(?m)^  evicted: \d+ items gave way to others", result.stderr), result.stderr
    assert " gets" not in result.stderr


def test_command_without_tests_is_not_called_clean(run: Run) -> None:
    result = run("sandbox", "exec", "--leaks", "--", "true")
    assert result.returncode == 0
    assert "\nsandbox: nothing is known of leaks: no test of " in result.stderr
