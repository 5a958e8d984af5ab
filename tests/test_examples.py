"""The example project passes by each way in, and leaves the main memcached untouched."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY, Run
from .helpers.memcacheds import MainMemcached
from .helpers.processes import eventually

pytestmark = pytest.mark.slow

BOOKSHOP = REPOSITORY / "examples" / "bookshop"

WAYS_IN = {
    "exec": ["sandbox", "exec", "--", "./manage.py", "test"],
    "runner": ["./manage.py", "test", "--testrunner", "sandbox.django.runner.SandboxRunner"],
    "plugin": [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
        *("--memcached-sandbox", "--noconftest"),
    ],
    "settings helper": ["./manage.py", "test", "--settings", "bookshop.test_settings"],
    "conftest": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
}


@pytest.mark.parametrize("command", WAYS_IN.values(), ids=WAYS_IN)
def test_example_passes_by_each_way_in(
    run: Run, main_memcached: MainMemcached, run_folder: Path, command: list[str]
) -> None:
    result = run(*command, cwd=BOOKSHOP, MEMCACHED=main_memcached.address)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "12 passed" in result.stdout or "Ran 12 tests" in result.stderr
    main_memcached.assert_untouched()
    eventually(lambda: list(run_folder.iterdir()) == [])


def test_example_fails_if_a_page_asks_the_cache_for_each_book(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    bookshop = shutil.copytree(BOOKSHOP, tmp_path / "bookshop")
    views = bookshop / "books" / "views.py"
    views.write_text(views.read_text().replace(" * rate", " * cache.get('tax')"))
    result = run(*WAYS_IN["exec"], "books.test_operations", cwd=bookshop)
    assert result.returncode == 1
    assert (
        "\nAssertionError: CACHES['default']: "
        "gets: expected 1, found 4; hits: expected 1, found 4\n"
        "  get bookshop:1:tax hit\n" + 3 * "  get bookshop:1:tax hit (again)\n"
    ) in result.stderr
    main_memcached.assert_untouched()


def test_example_fails_if_its_page_does_not_expect_an_outage(
    run: Run, main_memcached: MainMemcached, tmp_path: Path
) -> None:
    bookshop = shutil.copytree(BOOKSHOP, tmp_path / "bookshop")
    views = bookshop / "books" / "views.py"
    views.write_text(
        views.read_text().replace("except (OSError, MemcacheError)", "except KeyError")
    )
    result = run(*WAYS_IN["exec"], "books.test_outages", cwd=bookshop)
    assert result.returncode == 1
    assert "FAILED (errors=3)" in result.stderr
    for error in ("ConnectionRefusedError", "TimeoutError: timed out", "out of memory storing"):
        assert error in result.stderr
    assert "3 outages" in result.stderr
    main_memcached.assert_untouched()


def test_example_fails_without_clean_caches(run: Run, main_memcached: MainMemcached) -> None:
    """The example shows something only if its tests need clean caches."""
    script = (
        "import books.tests\n"
        "books.tests.CleanCacheTestCase.setUp = lambda self: None\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py', 'test'])\n"
    )
    result = run(
        "sandbox", "exec", "--flush", "never", "--", sys.executable, "-c",
        "import os, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'bookshop.settings';"
        f"django.setup(); exec({script!r})",
        cwd=BOOKSHOP,
    )  # fmt: skip
    assert "'5.00' != '40.00'" in result.stderr
    assert result.returncode == 1
