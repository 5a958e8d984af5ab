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


def seen(request):
    """List the titles that this visitor has looked at: the session, which is in the cache."""
    return JsonResponse({"seen": request.session.get("seen", [])})
