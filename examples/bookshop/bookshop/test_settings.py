"""Settings for those who have a module of settings for their tests.

./manage.py test --settings bookshop.test_settings
"""

from sandbox.django import sandboxed

from bookshop.settings import *  # noqa: F403
from bookshop.settings import CACHES

# Starts servers here and now; they end with this process.
CACHES = sandboxed(CACHES, start=True, memory_mb=32)
