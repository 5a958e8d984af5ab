"""Assertions about the operations on aliases of CACHES, in a test case of Django."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.test import SimpleTestCase, override_settings

from sandbox import OptionError, RunError
from sandbox.django import CacheOpsMixin, sandboxed_caches

from ..helpers.aliases import LOCMEM
from ..helpers.projects import PYMEMCACHE

MEMCACHED = {"BACKEND": PYMEMCACHE, "LOCATION": "127.0.0.1:2", "KEY_PREFIX": "shop"}


class Tests(CacheOpsMixin, SimpleTestCase):
    pass


@pytest.fixture
def case() -> Iterator[Tests]:
    with override_settings(
        CACHES={
            "default": MEMCACHED,
            "sessions": {**MEMCACHED, "LOCATION": ["127.0.0.1:3", "127.0.0.1:4"]},
            "local": LOCMEM,
        }
    ):
        yield Tests()


def test_counts_are_those_of_the_aliases(case: Tests) -> None:
    with sandboxed_caches() as box:
        assert len(box.servers) == 3
        with (
            case.assertCacheOps(sets=1, gets=1, hits=1),
            case.assertCacheOps(using="sessions", sets=4, gets=0),
            case.assertCacheOps(using=["default", "sessions"], sets=5, gets=1),
        ):
            cache.set("key", "value")
            cache.get("key")
            caches["sessions"].set_many(dict.fromkeys("abcd"))
        with (
            pytest.raises(AssertionError) as failure,
            case.assertMaxCacheOps(using=["sessions", "default"], sets=0),
        ):
            cache.set("key", "value", 60)
        first, _, second = str(failure.value).partition("\n")
    assert first == "CACHES['sessions'] and CACHES['default']: sets: expected at most 0, found 1"
    assert "\n  no operation\n" in second
    assert "\n  set shop:1:key 60 s, 5 bytes" in second


@pytest.mark.parametrize(
    ("using", "problem"),
    [
        (
            "default",
            (
                r"CACHES\['default'\] is django\..*\.PyMemcacheCache at '127\.0\.0\.1:2', no "
                "server of a sandbox: run the tests under 'sandbox exec', with 'pytest --memcached"
            ),
        ),
        ("local", r"CACHES\['local'\] is .*LocMemCache at 'a:1', no server of a sandbox: run "),
        (["other"], r"there is no CACHES\['other'\]; the aliases are 'default', 'sessions', 'l"),
    ],
)
def test_alias_without_a_sandbox(case: Tests, using: str | list[str], problem: str) -> None:
    with pytest.raises(RunError, match=rf"^assertCacheOps\(\): {problem}"):
        case.assertCacheOps(using=using, gets=1)


@pytest.mark.parametrize("using", [[], (), "", 3])
def test_no_alias(case: Tests, using: Any) -> None:
    with pytest.raises(OptionError, match=r"^assertCacheOps\(\): using=.*: must be an alias, or"):
        case.assertCacheOps(using=using, gets=1)


def test_excluded_alias(case: Tests, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.run.local import sandbox_run

    with (
        sandbox_run(exclude=["sessions"]),
        pytest.raises(RunError, match=r"CACHES\['sessions'\] is excluded from the sandbox$"),
    ):
        case.assertMaxCacheOps(using="sessions", gets=1)
