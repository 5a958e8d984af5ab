"""Starts a run for a session of pytest, or joins the run around it."""

from __future__ import annotations

import _thread
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import BuiltinFunctionType

import pytest

from ..errors import MainMemcachedRefused, SandboxError
from ..inject import pytest_plugin, run
from ..run.local import is_in_a_run, sandbox_run
from . import NAME, fixtures
from .options import is_set, memcached_options, run_options, wanted_of
from .plugin import SESSION, SandboxedSession


def begin(config: pytest.Config) -> None:
    """Starts or joins a run for this pytest session; it ends with ``config``."""
    plugins = config.pluginmanager
    if plugins.has_plugin(SESSION):
        return
    options = {**run_options(config), **memcached_options(config)}
    option = f"{NAME}_exclude={{alias}}"
    joins = is_in_a_run()
    wanted = wanted_of(config, joins)
    # Findings are told of each test, at once, by a follower in its process.
    of_run = wanted._replace(findings=False) if wanted else None
    inspector = of_run.inspector() if of_run and any(of_run) else None
    stack = ExitStack()
    config.add_cleanup(stack.close)
    # gevent and eventlet replace threads by what would block the whole process.
    has_threads = isinstance(_thread.start_new_thread, BuiltinFunctionType)
    distributes = has_threads and pytest_plugin.distributes(config)
    entered = stack.enter_context(
        sandbox_run(exclude_option=option, distributes=distributes, inspector=inspector, **options)
    )
    session = SandboxedSession(config, entered, joins)
    if wanted is not None:
        session.expect(wanted, inspector)
    if session.findings is not None:
        plugins.register(session.findings)
        run.on_servers.append(session.findings.follow)
        stack.callback(run.on_servers.remove, session.findings.follow)
        stack.callback(session.findings.finish)
    if is_set(config, "trace"):
        from ..inspection.recent import RecentOperations

        recent = RecentOperations()
        session.trace(recent)
        stack.callback(recent.close)
        run.on_servers.append(recent.follow)
        stack.callback(run.on_servers.remove, recent.follow)
    plugins.register(session, SESSION)
    plugins.register(fixtures, fixtures.__name__)
    if not plugins.is_registered(pytest_plugin):  # under sandbox exec it is
        plugins.register(pytest_plugin, pytest_plugin.__name__)


@contextmanager
def errors_explained() -> Iterator[None]:
    """Turns errors of this package into errors that pytest prints as one line."""
    try:
        yield
    except MainMemcachedRefused:
        raise  # by code of the project: its traceback shows which
    except SandboxError as error:
        raise pytest.UsageError(str(error)) from error
