"""The pytest plugin: its options, its fixtures, and where it begins.

What it does when it is on is in `session`, which is not loaded otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Literal

import pytest

from .options import add_options, is_on, memcached_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..memcached import Memcached
    from ..options import MemcachedOptions
    from ..sandbox import Sandbox
    from ..server import Server
    from .session import SandboxedSession


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Begin before anyone else: pytest-django loads Django's settings here."""
    if not is_on(early_config):
        return (yield)
    from .session import begin, errors_explained

    with errors_explained():
        begin(early_config)
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Begin now if it is a conftest.py that has named this plugin."""
    if is_on(config):
        from .session import begin, errors_explained

        with errors_explained():
            begin(config)


def _session(config: pytest.Config) -> SandboxedSession:
    if not is_on(config):
        pytest.fail(
            "the sandbox is off: have 'memcached_sandbox = true' in the ini file, "
            "or run pytest with --memcached-sandbox",
            pytrace=False,
        )
    from .session import session_of

    return session_of(config)


@pytest.fixture(scope="session")
def memcached(pytestconfig: pytest.Config) -> Server:
    """The server behind the default alias of CACHES or, without Django, the run's own."""
    return _session(pytestconfig).default_server()


@pytest.fixture(scope="session")
def memcached_sandbox(pytestconfig: pytest.Config) -> dict[str, list[Server]]:
    """The servers behind each memcached alias of CACHES, in the order of its LOCATION."""
    return _session(pytestconfig).servers_by_alias()


@pytest.fixture
def memcached_factory(pytestconfig: pytest.Config) -> Iterator[Callable[..., Memcached]]:
    """Start further servers, which nobody else knows of and which end with the test.

    Takes the options of `sandbox.Memcached`; what is not given is as configured for the run.
    """
    from contextlib import ExitStack

    from ..memcached import Memcached

    with ExitStack() as servers:

        def start(**options: Unpack[MemcachedOptions]) -> Memcached:
            return servers.enter_context(Memcached(**memcached_options(pytestconfig) | options))

        yield start


def sandboxed_caches_fixture(
    *,
    scope: Literal["function", "class", "module", "package", "session"] = "function",
    autouse: bool = False,
    flush: Literal["test", "class", "module", "session", "never"] = "test",
    exclude: Collection[str] = (),
    guard: Collection[str] | None = (),
    **options: Unpack[MemcachedOptions],
) -> Callable[..., Iterator[Sandbox]]:
    """Return a fixture that gives Django other caches of its own: for a conftest.py.

        small_cache = sandboxed_caches_fixture(memory_mb=2, scope="module")

    It yields the `Sandbox`, as `sandbox.django.sandboxed_caches` does.

    scope, autouse: those of `pytest.fixture`.
    flush: when these caches are emptied.
    exclude: memcached aliases to leave alone.
    guard: further addresses not to connect to meanwhile; None for no guard meanwhile.
    options: those of `sandbox.Memcached`; what is not given is as configured for the run.
    """

    @pytest.fixture(scope=scope, autouse=autouse)
    def caches(pytestconfig: pytest.Config) -> Iterator[Sandbox]:
        from .session import other_caches

        configured = memcached_options(pytestconfig)
        with other_caches(pytestconfig, flush, exclude, guard, configured | options) as box:
            yield box

    return caches
