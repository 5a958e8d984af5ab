"""Settings of a small bookshop, for development and production alike."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "only for development")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "testserver"]
ROOT_URLCONF = "bookshop.urls"
USE_TZ = True

INSTALLED_APPS = ["django.contrib.sessions", "books"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# The memcached that one develops with.
CACHES = {
    "default": {
        "BACKEND": "bookshop.cache.CountingCache",
        "LOCATION": os.environ.get("MEMCACHED", "127.0.0.1:11211"),
        "KEY_PREFIX": "bookshop",
        "OPTIONS": {"no_delay": True},
    },
    "sessions": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": os.environ.get("MEMCACHED", "127.0.0.1:11211"),
        "KEY_PREFIX": "sessions",
    },
    "pages": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": os.environ.get("MEMCACHED", "127.0.0.1:11211"),
        "KEY_PREFIX": "pages",
        # Seconds: by default it would wait for ever.
        "OPTIONS": {"connect_timeout": 1, "timeout": 1},
    },
}

SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SESSION_CACHE_ALIAS = "sessions"
