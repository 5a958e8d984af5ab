"""A site that keeps things in its caches in each of Django's ways."""

from __future__ import annotations

import itertools

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.cache import cache_page

_numbers = itertools.count()


@cache_page(60)
def page(_: HttpRequest) -> HttpResponse:
    """Number its own calls: a number that comes again came from the cache."""
    return HttpResponse(str(next(_numbers)))


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))


urlpatterns = [path("page/", page), path("visits/", visits)]
