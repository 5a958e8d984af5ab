"""Tests that are right only with a cache of their own.

Django rolls the database back after every test, so that the books of two tests get the same
primary key, and with it the same key in the cache. It does nothing of the kind for the cache.
"""

from django.core.cache import cache
from django.test import TestCase
from pymemcache.exceptions import MemcacheServerError

from books.models import Book


class CleanCacheTestCase(TestCase):
    def setUp(self):
        # Hurts nobody: this is the run's own memcached, which all aliases share.
        cache.clear()


class BookViewTests(CleanCacheTestCase):
    def test_shows_a_cheap_book(self):
        book = Book.objects.create(pk=1, title="Dubliners", price="5.00")
        self.assertEqual(self.client.get(f"/books/{book.pk}/").json()["price"], "5.00")

    def test_shows_an_expensive_book(self):
        book = Book.objects.create(pk=1, title="Ulysses", price="40.00")
        self.assertEqual(self.client.get(f"/books/{book.pk}/").json()["price"], "40.00")

    def test_second_request_needs_no_database(self):
        book = Book.objects.create(title="Dubliners", price="5.00")
        self.client.get(f"/books/{book.pk}/")
        with self.assertNumQueries(0):
            self.client.get(f"/books/{book.pk}/")

    def test_popular_books_come_latest_first(self):
        for pk, title in enumerate(["Dubliners", "Ulysses"], start=1):
            Book.objects.create(pk=pk, title=title, price="5.00")
            response = self.client.get(f"/books/{pk}/")
        self.assertEqual(response.json()["popular"], ["Ulysses", "Dubliners"])


class SessionTests(CleanCacheTestCase):
    def test_session_remembers_what_was_seen(self):
        book = Book.objects.create(title="Dubliners", price="5.00")
        self.client.get(f"/books/{book.pk}/")
        self.assertEqual(self.client.get("/seen/").json(), {"seen": ["Dubliners"]})


class BackendTests(CleanCacheTestCase):
    def test_server_counts_hits(self):
        cache.set("greeting", "hello")
        (before,) = cache.server_stats().values()
        cache.get("greeting")
        (after,) = cache.server_stats().values()
        self.assertEqual(after["get_hits"] - before["get_hits"], 1)

    def test_value_above_the_item_size_is_refused(self):
        with self.assertRaisesMessage(MemcacheServerError, "object too large for cache"):
            cache.set("large", "x" * 2_000_000)
