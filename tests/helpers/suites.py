"""Tests of projects: what these are run with shows in whether they pass."""

from __future__ import annotations

import django

START_METHODS = ["fork", "spawn"] + (["forkserver"] if django.VERSION >= (6, 0) else [])

# Each test fails if it sees what another has left, in its own process or in another. Two for each
# class, as a class is what a worker is given.
CLEAN_CACHE = """
from django.core.cache import cache
from django.test import SimpleTestCase, TestCase

def make(name, base):
    def test(self):
        self.assertIsNone(cache.get("key"))
        for number in range(20):
            self.assertEqual(cache.get("counter", number), number)
            cache.set("counter", number + 1)
        self.assertTrue(cache.add("key", name))
    return type(name, (base,), {"test_one": test, "test_two": test})

for number in range(8):
    globals()[f"Tests{number}"] = make(f"Tests{number}", [SimpleTestCase, TestCase][number % 2])
"""

# Each fails if anything is left by another, in whatever order they come.
POISON = """
import pytest
from django.contrib.sites.models import Site
from django.core.cache import cache

def name_of(pk):
    return cache.get_or_set(f"site:{pk}", lambda: Site.objects.get(pk=pk).name)

@pytest.mark.django_db
@pytest.mark.parametrize("name", ["red", "green", "blue", "black", "white"])
def test(name):
    Site.objects.all().delete()
    site = Site.objects.create(pk=5, domain="a.org", name=name)
    assert name_of(site.pk) == name
"""

# What the settings need for it.
SITES = "INSTALLED_APPS = ['django.contrib.sites']\n"

# A worker has a cache of its own, and the processes that its tests start have the same.
WORKERS_AND_CHILDREN = """
import subprocess, sys
from django.core.cache import cache
from django.test import SimpleTestCase

READ = 'from django.core.cache import cache; print(cache.get("key"))'

class A(SimpleTestCase):
    def test(self):
        cache.set("key", type(self).__name__)
        output = subprocess.check_output([sys.executable, "-c", READ], text=True)
        self.assertEqual(output.strip(), type(self).__name__)
class B(A): pass
class C(A): pass
"""

# What is left of the run cannot be emptied: it has to fail.
KILLS_MEMCACHED = """
import os, signal
from django.test import SimpleTestCase

class Tests(SimpleTestCase):
    def test(self):
        os.kill(int(os.environ["MEMCACHED_SANDBOX_PID"]), signal.SIGKILL)
"""

# Traces and counts what each test does to the server behind its cache, wherever it runs.
TRACED = """
from django.core.cache import cache
from django.test import SimpleTestCase
from sandbox import Server
from sandbox.django import CacheOpsMixin

class TraceTests(CacheOpsMixin):
    def test(self):
        server = Server(cache._servers[0])
        name = type(self).__name__
        with server.counting() as counts, server.trace() as operations:
            cache.get(name)
            cache.set(name, 1, 60, version=3)
        assert [(o.verb, o.key, o.name) for o in operations] == [
            ("get", f":1:{name}", name), ("set", f":3:{name}", name)
        ], operations
        assert (counts.gets, counts.sets) == (1, 1), counts
        with self.assertCacheOps(gets=1, hits=1, sets=0), self.assertMaxCacheOps(gets=1):
            cache.get(name, version=3)
    test_again = test

class A(TraceTests, SimpleTestCase): pass
class B(TraceTests, SimpleTestCase): pass
class C(TraceTests, SimpleTestCase): pass
"""

# Three leaks, each within a class, as a class is what a worker is given; and tests without any.
LEAKS = """
from django.core.cache import cache
from django.test import SimpleTestCase

class Leaking:
    def test_1_sets(self): cache.set(f"{self.name}:1", 1, 60)
    def test_2_reads(self): assert cache.get(f"{self.name}:1") is None
    def test_3_reads_nothing(self): assert cache.get(f"{self.name}:2") is None

class Books(Leaking, SimpleTestCase): name = "book"
class Carts(Leaking, SimpleTestCase): name = "cart"
class Users(Leaking, SimpleTestCase): name = "user"

class CleanTests(SimpleTestCase):
    def test_sets(self): cache.set("own", 1); assert cache.get("own") == 1
    def test_sets_again(self): cache.set("own", 1); assert cache.get("own") == 1
    def test_expires(self): cache.set("old", 1, -1)
    def test_reads(self): assert cache.get("old") is None
    def test_2_deletes(self): cache.set("gone:1", 1); cache.delete("gone:1")
    def test_3_reads(self): assert cache.get("gone:1") is None
"""
