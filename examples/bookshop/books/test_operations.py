"""A test that counts what a page asks the cache, as assertNumQueries counts what it asks for."""

from decimal import Decimal

from django.test import TestCase

from books.models import Book
from sandbox.django import CacheOpsMixin


class CatalogueTests(CacheOpsMixin, TestCase):
    def test_catalogue_reads_the_tax_once(self):
        for title in ("Dubliners", "Exiles", "Ulysses"):
            Book.objects.create(title=title, price=Decimal("10.00"))
        self.client.get("/books/")
        with self.assertCacheOps(gets=1, hits=1, sets=0):
            response = self.client.get("/books/")
        self.assertEqual(response.json()["Ulysses"], "10.70")
