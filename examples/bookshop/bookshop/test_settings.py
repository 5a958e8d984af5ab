"""Settings for those who have a module of settings for their tests.

./manage.py test --settings bookshop.test_settings
"""

from bookshop.settings import *  # noqa: F403
from bookshop.settings import CACHES
from sandbox.django import sandboxed

# Starts servers here and now; they end with this process.
CACHES = sandboxed(CACHES, start=True, memory_mb=32)
