"""Defines aliases of CACHES that several tests use."""

from __future__ import annotations

from typing import Any

from .projects import PYMEMCACHE

LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "a:1"}


def make_key(key: str, prefix: str, version: int) -> str:
    return f"{prefix}/{version}/{key}"


# Every setting that an alias may have.
FULL: dict[str, Any] = {
    "BACKEND": PYMEMCACHE,
    "LOCATION": "main:11211",
    "OPTIONS": {"no_delay": True},
    "KEY_PREFIX": "prefix",
    "VERSION": 3,
    "TIMEOUT": 17,
    "KEY_FUNCTION": make_key,
}
