"""A test runner whose tests have a memcached of their own.

TEST_RUNNER = "sandbox.django.runner.SandboxRunner"
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner

from ..errors import MainMemcachedRefused, OptionError, SandboxError, ServerError
from ..run.local import OwnRun, enter_run, is_in_a_run
from ..run.summary import Usage, refused

if TYPE_CHECKING:
    from ..inject import run
    from ..server.options import MemcachedOptions

    Base = DiscoverRunner
else:
    Base = object


class SandboxRunnerMixin(Base):
    """Gives each run of a Django test runner memcached servers of its own; put it first.

        class Runner(SandboxRunnerMixin, MyOwnRunner): ...

    They are there before the databases are, and each worker of ``--parallel`` has its own. The
    caches are emptied after each test. Under ``sandbox exec`` the runner joins that run.

    What the command line does not say is said by attributes:

    memcached_exclude: memcached aliases to leave alone.
    memcached_guard: further addresses not to connect to; None for no guard at all.
    memcached_options: those of `sandbox.Memcached`.
    """

    memcached_exclude: ClassVar[Collection[str]] = ()
    memcached_guard: ClassVar[Collection[str] | None] = ()
    memcached_options: ClassVar[MemcachedOptions] = {}

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--memcached-memory",
            type=int,
            metavar="MB",
            help="The cap of each memcached's memory (64).",
        )
        parser.add_argument(
            "--memcached-flush",
            choices=["test", "never"],
            help="Empty the caches after each test (the default), or never.",
        )

    def __init__(
        self,
        *args: Any,
        memcached_memory: int | None = None,
        memcached_flush: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sandbox_options: MemcachedOptions = {**self.memcached_options}
        if memcached_memory is not None:
            self._sandbox_options["memory_mb"] = memcached_memory
        self._sandbox_flush = memcached_flush
        self._sandbox_run: run.Run | None = None

    def run_tests(self, *args: Any, **kwargs: Any) -> int:
        """Run the tests with servers that are gone when this ends, in whatever way."""
        joins = is_in_a_run()
        try:
            with enter_run(
                exclude=self.memcached_exclude,
                flush=self._sandbox_flush,
                guard=self.memcached_guard,
                **self._sandbox_options,
            ) as entered:
                self._sandbox_run = entered
                failures = super().run_tests(*args, **kwargs)
                if isinstance(entered, OwnRun) and not joins:
                    self._log_usage(entered)
                return failures
        except MainMemcachedRefused:
            raise  # by code of the project: its traceback shows which
        except OptionError as error:
            names = {"memory_mb": "--memcached-memory"}
            name = names.get(error.option, f"memcached_options[{error.option!r}]")
            raise CommandError(f"{name}: {error.problem}.") from error
        except SandboxError as error:
            raise CommandError(f"{error}.") from error

    def setup_databases(self, **kwargs: Any) -> Any:
        # By now it is known how many workers there will be.
        if isinstance(self._sandbox_run, OwnRun) and self.parallel > 1:
            self._sandbox_run.start_worker_sets(self.parallel)
        return super().setup_databases(**kwargs)

    def _log_usage(self, own: OwnRun) -> None:
        try:
            usage = Usage.of(own.own_servers())
        except ServerError as error:
            self.log(f"memcached-sandbox: {error}.")
        else:
            if usage.servers:
                self.log(f"memcached-sandbox: {usage.line('--memcached-memory')}")
        if refusals := own.take_refusals():
            self.log(f"memcached-sandbox: {refused(refusals)}")


class SandboxRunner(SandboxRunnerMixin, DiscoverRunner):
    """Django's own test runner, with memcached servers of its own for each run."""
