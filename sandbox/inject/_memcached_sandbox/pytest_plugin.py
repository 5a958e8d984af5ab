"""Empties the caches after each test of pytest, and tells workers of pytest-xdist what is theirs.

Loaded through PYTEST_PLUGINS.
"""

from __future__ import annotations

import pytest

from .patches import become_worker, test
from .run import current

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    keep = bool(item.get_closest_marker("keep_cache"))
    keep = keep or getattr(getattr(item, "cls", None), "keep_cache", False)
    keep = keep or getattr(getattr(item, "obj", None), "keep_cache", False)
    with test(keep):
        yield


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "keep_cache: do not empty the caches after this test")
    if hasattr(config, "workerinput") and current().worker:
        # Django's settings have asked under this name already; the environment has not.
        become_worker(current().worker)
