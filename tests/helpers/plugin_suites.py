"""Tests that projects run with the pytest plugin, and the option that turns the plugin on."""

from __future__ import annotations

ON = "--memcached-sandbox"

# Each test passes if the cache is empty before it.
TEST_LOCATION = """
from django.conf import settings
from django.core.cache import cache
def test():
    location = settings.CACHES["default"]["LOCATION"]
    print(f"at {location}.")
    assert cache.add("key", "value")
test_again = test
"""

# Prints the limits that the servers report.
LIMITS = """
import os
def test(memcached):
    settings, stats = memcached.stats("settings"), memcached.stats()
    print(int(settings["maxbytes"]) >> 20, settings["item_size_max"], stats["threads"], "limits")
    print(settings["maxconns"], settings["growth_factor"], "further")
    assert memcached.address.startswith("unix:") is bool(os.environ.get("UNIX"))
"""
