from decimal import Decimal

from django.core.cache import cache
from django.http import JsonResponse
from django.shortcuts import get_object_or_404

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


def seen(request):
    """List the titles that this visitor has looked at: the session, which is in the cache."""
    return JsonResponse({"seen": request.session.get("seen", [])})
