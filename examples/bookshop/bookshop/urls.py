from books import views
from django.urls import path

urlpatterns = [
    path("books/", views.catalogue, name="catalogue"),
    path("books/<int:pk>/", views.book, name="book"),
    path("cheapest/", views.cheapest, name="cheapest"),
    path("seen/", views.seen, name="seen"),
]
