"""Tests of a page that needs no memcached: it is slower without one, and right."""

from decimal import Decimal

from django.test import TestCase

from books.models import Book
from sandbox.django import outage


class CheapestTests(TestCase):
    def setUp(self):
        Book.objects.create(title="Dubliners", price=Decimal("5.00"))
        Book.objects.create(title="Ulysses", price=Decimal("40.00"))

    def assert_page_is_right(self):
        for _ in range(2):  # A client may behave otherwise once it knows that the server is away.
            response = self.client.get("/cheapest/")
            self.assertEqual(response.json(), {"title": "Dubliners", "price": "5.00"})

    def test_with_memcached(self):
        self.assert_page_is_right()

    @outage("down", alias="pages")
    def test_while_connections_are_refused(self):
        self.assert_page_is_right()

    @outage("hung", alias="pages")
    def test_while_nothing_is_answered(self):
        self.assert_page_is_right()

    @outage("full", alias="pages")
    def test_while_there_is_no_memory(self):
        self.assert_page_is_right()
