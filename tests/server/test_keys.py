"""Names of keys: as the code of a Django project has them."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache.backends.base import default_key_func
from django.test import override_settings

from sandbox.server.keys import KEY_FUNCTION, name_of_key

SERVER = "127.0.0.1:5000"


def name(key: str, *caches: dict[str, Any]) -> str:
    settings = {str(number): {"BACKEND": "x", **config} for number, config in enumerate(caches)}
    with override_settings(CACHES={"default": {"BACKEND": "y"}, **settings}):
        return name_of_key(SERVER)(key)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"KEY_FUNCTION": default_key_func},
        {"KEY_FUNCTION": KEY_FUNCTION},
        {"VERSION": 7},
        {"LOCATION": ["127.0.0.1:4999", " localhost:5000"]},
    ],
)
def test_name_is_the_key_without_prefix_and_version(config: dict[str, Any]) -> None:
    cache = {"LOCATION": SERVER, "KEY_PREFIX": "shop", **config}
    assert name("shop:1:price:7", cache) == "price:7"
    assert name("shop:2:", cache) == ""
    for other in ("price:7", "shop:1", "shop::price:7", "shop2:1:price:7", ":1:price:7"):
        assert name(other, cache) == other


def test_name_is_that_of_the_cache_whose_prefix_the_key_has() -> None:
    caches = ({"LOCATION": SERVER}, {"LOCATION": SERVER, "KEY_PREFIX": ":1"})
    assert name(":1:key", *caches) == "key"
    assert name(":1:2:key", *caches) == "key"


@pytest.mark.parametrize(
    "config",
    [
        {"LOCATION": "127.0.0.1:5001"},
        {"LOCATION": SERVER, "KEY_FUNCTION": "shop.cache.key"},
        {"LOCATION": SERVER, "KEY_FUNCTION": lambda key, prefix, version: key},
    ],
)
def test_key_of_no_such_cache_is_its_own_name(config: dict[str, Any]) -> None:
    assert name(":1:key", config) == ":1:key"
