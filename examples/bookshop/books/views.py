from decimal import Decimal

from django.core.cache import cache, caches
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from pymemcache.exceptions import MemcacheError

from books.models import Book


def book(request, pk):
    """Show a book, from the cache if it is there: its key is made of the primary key."""

    def load():
        found = get_object_or_404(Book, pk=pk)
        return {"title": found.title, "price": str(found.price)}

    details = cache.get_or_set(f"book:{pk}", load)
    request.session["seen"] = [*request.session.get("seen", []), details["title"]]
    popular = cache.append_to_list("popular", details["title"])
    return JsonResponse({**details, "popular": popular})


def catalogue(request):
    """List all books with their tax, whose rate is in the cache."""
    rate = cache.get_or_set("tax", Decimal("1.07"))
    prices = {book.title: f"{book.price * rate:.2f}" for book in Book.objects.all()}
    return JsonResponse(prices)


def cheapest(request):
    """Show the cheapest book: from the database if the cache is away, too slow or full."""

    def load():
        found = Book.objects.order_by("price").first()
        return {"title": found.title, "price": str(found.price)}

    try:
        details = caches["pages"].get_or_set("cheapest", load, 60)
    except (OSError, MemcacheError):
        details = load()
    return JsonResponse(details)


def seen(request):
    """List the titles that this visitor has looked at: the session, which is in the cache."""
    return JsonResponse({"seen": request.session.get("seen", [])})
