"""For those who run pytest as it is: `pytest`, without a command around it."""

import pytest

from sandbox.django import sandboxed_caches


@pytest.fixture(autouse=True, scope="session")
def memcached():
    with sandboxed_caches(memory_mb=32) as box:
        yield box


@pytest.fixture(autouse=True)
def empty_caches(memcached):
    yield
    memcached.flush()
