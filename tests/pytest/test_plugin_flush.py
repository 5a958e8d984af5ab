"""When the plugin empties the caches, and what delays that."""

from __future__ import annotations

import re
import shlex

import pytest

from ..conftest import REPOSITORY
from ..helpers.processes import Result
from ..helpers.projects import InProcess, Project, passed, pytest_command
from ..helpers.suites import CLEAN_CACHE, POISON, SITES

# Prints the names of the tests since the last flush, and appends its own.
TRAIL = """
import pytest
from django.core.cache import cache

def visit(request):
    trail = cache.get("trail", [])
    cache.set("trail", [*trail, request.node.name])
    print("trail", request.node.name, *trail)

class TestA:
    def test_a1(self, request): visit(request)
    def test_a2(self, request): visit(request)
class TestB:
    def test_b1(self, request): visit(request)
def test_c(request): visit(request)
def test_d(request): visit(request)
"""


def trails(result: Result) -> list[str]:
    """Return what the tests of TRAIL printed, if all have passed."""
    assert passed(result)
    return re.findall(r"trail (.*)", result.stdout)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("test", ["a1", "a2", "b1", "c", "d", "e"]),
        ("class", ["a1", "a2 a1", "b1", "c", "d", "e"]),
        ("module", ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c", "e"]),
        (
            "session",
            ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c", "e a1 a2 b1 c d"],
        ),
        (
            "never",
            ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c", "e a1 a2 b1 c d"],
        ),
    ],
)
@pytest.mark.parametrize("where", ["--memcached-sandbox-flush=", "-omemcached_sandbox_flush="])
def test_flush_follows_the_given_scope(
    django_in_process: InProcess, scope: str, expected: list[str], where: str
) -> None:
    django_in_process.write("test_1.py", TRAIL)
    django_in_process.write(
        "test_2.py", "from test_1 import visit\ndef test_e(request): visit(request)\n"
    )
    names = [re.sub(r"(\w+)", r"test_\1", trail) for trail in expected]
    assert trails(django_in_process.pytest("-s", f"{where}{scope}")) == names


def test_flush_at_the_end_of_the_session_or_never(project: Project) -> None:
    """Commands after pytest in the same `sandbox exec` see the difference."""
    project.write("test_1.py", TRAIL)
    project.write(
        "left.py",
        "import os\n"
        "from pymemcache import Client\n"
        "client = Client(os.environ['MEMCACHED_SANDBOX_ADDRESS'])\n"
        "print('left:', client.get(':1:trail') is not None)\n",
    )
    pytest = shlex.join(pytest_command("-q"))
    scopes = [f"{pytest} --memcached-sandbox-flush={scope}" for scope in ("never", "session")]
    result = project.sandboxed("--", "sh", "-c", "; python left.py; ".join([*scopes, "true"]))
    left = re.findall("left: (.*)", result.stdout)
    assert left == ["True", "False"], result.stdout + result.stderr


def test_flush_follows_fixtures_and_database_rollback(project: Project) -> None:
    """The fixtures end, the database is rolled back, then the caches are emptied."""
    settings = (project.folder / "settings.py").read_text()
    project.write("settings.py", settings + "INSTALLED_APPS = ['django.contrib.sites']\n")
    project.write(
        "test_it.py",
        "import pytest\n"
        "from django.contrib.sites.models import Site\n"
        "from django.core.cache import cache\n"
        "@pytest.fixture\n"
        "def mine(db):\n"
        "    assert cache.get('mine') is None\n"
        "    yield\n"
        "    assert cache.get('test') == Site.objects.get(domain='a.org').pk\n"
        "    cache.set('mine', 1)\n"
        "@pytest.mark.parametrize('number', range(3))\n"
        "def test(mine, number):\n"
        "    assert Site.objects.filter(domain='a.org').count() == 0\n"
        "    assert cache.get('test') is None\n"
        "    cache.set('test', Site.objects.create(domain='a.org').pk)\n"
        "@pytest.mark.django_db(transaction=True)\n"
        "def test_transaction(mine):\n"
        "    cache.set('test', Site.objects.create(domain='a.org').pk)\n"
        "def test_clean(): assert cache.get('mine') is cache.get('test') is None\n",
    )
    assert passed(project.pytest()) == 5


def test_keep_cache_delays_the_flush(django_in_process: InProcess) -> None:
    django_in_process.write(
        "test_1.py",
        TRAIL.replace("class TestA", "@pytest.mark.keep_cache('class')\nclass TestA")
        .replace("def test_c", "@pytest.mark.keep_cache\ndef test_c")
        .replace("class TestB", "@pytest.mark.keep_cache('module')\nclass TestB"),
    )
    django_in_process.write(
        "test_2.py", "from test_1 import visit\ndef test_e(request): visit(request)\n"
    )
    assert trails(django_in_process.pytest("-s", "--strict-markers")) == [
        "test_a1",
        "test_a2 test_a1",
        "test_b1",
        "test_c test_b1",
        "test_d test_b1 test_c",
        "test_e",
    ]


@pytest.mark.parametrize("scope", ["class", "module"])
def test_keep_cache_keeps_what_a_wider_fixture_cached(
    django_in_process: InProcess, scope: str
) -> None:
    tests = (
        "import pytest\n"
        "from django.core.cache import cache\n"
        f"@pytest.fixture(scope='{scope}')\n"
        "def filled(): cache.set('filled', 1)\n"
        f"@pytest.mark.keep_cache('{scope}')\n"
        "class TestKept:\n"
        "    def test_1(self, filled): assert cache.get('filled') == 1\n"
        "    def test_2(self, filled): assert cache.get('filled') == 1\n"
    )
    django_in_process.write("test_1.py", tests)
    django_in_process.write(
        "test_2.py",
        "from django.core.cache import cache\ndef test(): assert not cache.get('filled')\n",
    )
    assert passed(django_in_process.pytest()) == 3
    django_in_process.write("test_1.py", tests.replace("@pytest.mark", "keep = pytest.mark"))
    assert "1 failed, 2 passed" in django_in_process.pytest().stdout


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("test", ["a1", "a2 a1", "b1", "c", "d c"]),
        ("module", ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c"]),
        ("never", ["a1", "a2 a1", "b1 a1 a2", "c a1 a2 b1", "d a1 a2 b1 c"]),
    ],
)
def test_keep_cache_as_an_attribute_ends_with_its_class(
    django_in_process: InProcess, scope: str, expected: list[str]
) -> None:
    kept = "class TestB:\n    keep_cache = True"
    suite = TRAIL.replace("class TestB:", kept).replace("class TestA:", kept.replace("B", "A"))
    django_in_process.write("test_1.py", f"{suite}test_c.keep_cache = True\n")
    names = [re.sub(r"(\w+)", r"test_\1", trail) for trail in expected]
    result = django_in_process.pytest("-s", f"--memcached-sandbox-flush={scope}")
    assert trails(result) == names


def test_keep_cache_as_an_attribute_of_a_test_case(project: Project) -> None:
    project.write("test_it.py", CLEAN_CACHE)
    project.write(
        "test_kept.py",
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase\n"
        "class Tests(SimpleTestCase):\n"
        "    keep_cache = True\n"
        "    def test_1(self): cache.set('a', 1)\n"
        "    def test_2(self): assert cache.get('a') == 1\n",
    )
    assert passed(project.pytest()) == 18


@pytest.mark.parametrize(
    ("arguments", "given"), [("'clas'", "'clas'"), ("until='class'", "until='class'")]
)
def test_misspelled_keep_cache_is_an_error(
    in_process: InProcess, arguments: str, given: str
) -> None:
    in_process.write(
        "test_1.py", f"import pytest\n@pytest.mark.keep_cache({arguments})\ndef test(): pass\n"
    )
    result = in_process.pytest()
    assert result.returncode == 4
    assert (
        "ERROR: test_1.py::test: keep_cache takes 'class', 'module', 'session' or nothing, "
        f"but got {given}\n"
    ) in result.stderr + result.stdout


@pytest.fixture
def poisoned(project: Project) -> Project:
    """The project, with tests that fail if another has left anything in the cache."""
    project.write("settings.py", (project.folder / "settings.py").read_text() + SITES)
    project.write("test_poison.py", POISON)
    return project


CRAWL = f"""
import sys
sys.path.append({str(REPOSITORY)!r})
from tests.helpers.slabs import list_keys

def test_1(memcached): list_keys(memcached)
def test_2(memcached): list_keys(memcached)
def test_3(memcached): list_keys(memcached)
"""


def test_crawl_leaves_no_keys_to_list_by_slabs(in_process: InProcess, project: Project) -> None:
    in_process.write("test_it.py", CRAWL)
    assert passed(in_process.pytest("--memcached-sandbox-crawl")) == 3
    project.write("test_it.py", CRAWL)
    on, crawl = "--memcached-sandbox", "--memcached-sandbox-crawl"
    assert passed(project.sandboxed("--crawl", "--", *pytest_command(on))) == 3
    assert passed(project.sandboxed("--", *pytest_command(on, crawl))) == 3


def test_poisoned_suite_fails_without_flush(poisoned: Project) -> None:
    result = poisoned.pytest("--memcached-sandbox-flush=never")
    assert "4 failed, 1 passed" in result.stdout


def test_poisoned_suite_passes_with_flush(poisoned: Project) -> None:
    assert passed(poisoned.pytest()) == 5
