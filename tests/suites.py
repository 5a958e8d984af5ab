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

# A worker has a cache of its own, and the processes that its tests start have the same.
WORKERS_AND_CHILDREN = """
import subprocess, sys
from django.core.cache import cache
from django.test import SimpleTestCase

READ = 'from django.core.cache import cache; print(cache.get("key"))'

class A(SimpleTestCase):
    def test(self):
        cache.set("key", type(self).__name__)
        command = [sys.executable, "manage.py", "shell", "-c", READ]
        output = subprocess.check_output(command, text=True)
        self.assertEqual(output.splitlines()[-1], type(self).__name__)
class B(A): pass
class C(A): pass
"""
