"""Defines the fixtures of the pytest plugin, which are there when it is on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

import pytest

from ..run.options import read_run
from ..server.options import Given
from .options import FLUSHES, memcached_options
from .plugin import session_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..run.sandbox import Sandbox
    from ..server import Server
    from ..server.memcached import Memcached
    from ..server.options import MemcachedOptions


@pytest.fixture(scope="session")
def memcached(pytestconfig: pytest.Config) -> Server:
    """The server behind the default alias of CACHES or, without Django, the run's own."""
    return session_of(pytestconfig).default_server()


@pytest.fixture(scope="session")
def memcached_sandbox(pytestconfig: pytest.Config) -> dict[str, list[Server]]:
    """The servers behind each memcached alias of CACHES, in the order of its LOCATION."""
    return session_of(pytestconfig).servers_by_alias()


@pytest.fixture
def memcached_factory(pytestconfig: pytest.Config) -> Iterator[Callable[..., Memcached]]:
    """Starts further servers, which nobody else knows of and which end with the test.

    Takes the options of `sandbox.Memcached`; what is not given is as configured for the run.
    """
    from ..server.memcached import Memcached

    with ExitStack() as servers:

        def start(**options: Unpack[MemcachedOptions]) -> Memcached:
            session_of(pytestconfig).note_other_servers()
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
    """Returns a fixture that gives Django other caches of its own: for a conftest.py.

        small_cache = sandboxed_caches_fixture(memory_mb=2, scope="module")

    It yields the `Sandbox`, as `sandbox.django.sandboxed_caches` does.

    :param scope: that of `pytest.fixture`.
    :param autouse: that of `pytest.fixture`.
    :param flush: when these caches are emptied.
    :param exclude: memcached aliases to leave alone.
    :param guard: further addresses not to connect to meanwhile; None for no guard meanwhile.
    :param options: those of `sandbox.Memcached`; the others are as configured for the run.
    :raises sandbox.OptionError: one of them is wrong, when a test asks for the fixture.
    """

    @pytest.fixture(scope=scope, autouse=autouse)
    def caches(pytestconfig: pytest.Config) -> Iterator[Sandbox]:
        from .other_caches import other_caches

        given = {"flush": flush, "exclude": exclude, "guard": guard}
        of_run = read_run(
            {name: Given(value, f"{name}={value!r}") for name, value in given.items()}, FLUSHES
        )
        configured = memcached_options(pytestconfig)
        with other_caches(
            pytestconfig,
            of_run["flush"],
            of_run["exclude"],
            of_run["guard"],
            configured | options,
        ) as box:
            yield box

    return caches
