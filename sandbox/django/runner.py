"""Runs Django's tests with a memcached of their own.

TEST_RUNNER = "sandbox.django.runner.SandboxRunner"
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner

from ..errors import MainMemcachedRefused, OptionError, SandboxError
from ..run.local import is_in_a_run, local_source, sandbox_run
from ..run.options import OF_INSPECTION, read_run, read_wanted
from ..run.summary import Summary
from ..server.options import (
    BY_KEYWORD,
    OF_MEMCACHED,
    OPTIONS,
    Given,
    Option,
    from_environment,
    merged,
    read,
    read_memcached,
    typed,
)

if TYPE_CHECKING:
    from ..inject import run
    from ..inspection.inspector import Inspector
    from ..server.options import MemcachedOptions

    Base = DiscoverRunner
else:
    Base = object


class SandboxRunnerMixin(Base):
    """Gives each run of a Django test runner memcached servers of its own; put it first.

        class Runner(SandboxRunnerMixin, MyOwnRunner): ...

    They are there before the databases are, and each worker of ``--parallel`` has its own. The
    caches are emptied after each test. Under ``sandbox exec`` the runner joins that run.

    Its options are ``--memcached-WORD`` on the command line and MEMCACHED_SANDBOX_WORD in the
    environment. Class attributes set the defaults:

    memcached_options: those of `sandbox.Memcached`.
    memcached_exclude: memcached aliases to leave alone.
    memcached_flush: "test" to empty the caches after each test, or "never".
    memcached_guard: further addresses not to connect to; None for no guard at all.
    memcached_strict: whether a refused connection fails the run.
    memcached_quiet: whether there is no summary at the end.
    memcached_leaks: whether it tells what tests would have left for others, without isolation.
    memcached_leaks_json, memcached_report, memcached_report_top, memcached_report_json,
    memcached_report_html, memcached_findings: the same as the options.
    """

    memcached_options: ClassVar[MemcachedOptions] = {}
    memcached_exclude: ClassVar[Collection[str]] = ()
    memcached_flush: ClassVar[str | None] = None
    memcached_guard: ClassVar[Collection[str] | None] = ()
    memcached_strict: ClassVar[bool] = False
    memcached_quiet: ClassVar[bool] = False
    memcached_leaks: ClassVar[bool] = False
    memcached_leaks_json: ClassVar[str | None] = None
    memcached_report: ClassVar[bool] = False
    memcached_report_top: ClassVar[int | None] = None
    memcached_report_json: ClassVar[str | None] = None
    memcached_report_html: ClassVar[str | None] = None
    memcached_findings: ClassVar[bool] = False

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of the sandbox to ``manage.py test``."""
        super().add_arguments(parser)
        for option in OPTIONS:
            default = f" (default: {option.default})" if option.default else ""
            kind: dict[str, Any] = {"action": "store_const", "const": True}
            if option.metavar:
                kind = {
                    "metavar": option.metavar,
                    "action": "append" if option.repeatable else "store",
                }
            parser.add_argument(_flag(option), help=f"{option.help}{default}", **kind)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._typed = {
            option.keyword: typed(option, _flag(option), value)
            for option in OPTIONS
            if (value := kwargs.pop(_destination(option), None)) is not None
        }
        super().__init__(*args, **kwargs)
        self._sandbox_run: run.Run | None = None
        self._inspector: Inspector | None = None

    def _given(self) -> dict[str, Given]:
        """Returns the options, from the command line, the environment or the attributes."""
        if not isinstance(self.memcached_options, Mapping):
            raise OptionError(
                "memcached_options", f"memcached_options={self.memcached_options!r}: must be a dict"
            )
        if unknown := set(self.memcached_options).difference(o.keyword for o in OF_MEMCACHED):
            raise OptionError(min(unknown), f"memcached_options: there is no {min(unknown)!r}")
        attributes = {
            keyword: Given(value, f"memcached_options[{keyword!r}]={value!r}")
            for keyword, value in self.memcached_options.items()
        }
        for keyword in ("exclude", "flush", "guard", "strict", "quiet", *OF_INSPECTION):
            attribute = f"memcached_{keyword}"
            value = getattr(self, attribute)
            if value is not None or keyword == "guard":
                attributes[keyword] = Given(value, f"{attribute}={value!r}")
        return merged(attributes, from_environment(), self._typed)

    def run_tests(self, *args: Any, **kwargs: Any) -> int:
        """Runs the tests with servers that are gone when this ends, in whatever way."""
        joins = is_in_a_run()
        try:
            given = self._given()
            keywords = given.keys() & {"strict", "quiet"}
            switches = read({keyword: given[keyword] for keyword in keywords})
            options = {
                **read_run(given),
                **read_memcached(given, lambda keyword: _flag(BY_KEYWORD[keyword])),
            }
            wanted = read_wanted(given, joins)
            options["inspector"] = self._inspector = wanted.inspector() if wanted else None
            exclude_option = f"{_flag(BY_KEYWORD['exclude'])} {{alias}}"
            with sandbox_run(exclude_option=exclude_option, **options) as entered:
                self._sandbox_run = entered
                failures = super().run_tests(*args, **kwargs)
                summary = Summary(
                    _flag(BY_KEYWORD["memory_mb"]),
                    switches.get("strict", False),
                    switches.get("quiet", False),
                )
                summary.refusals += entered.take_refusals()
                if self._inspector is not None:
                    summary.expect(self._inspector.wanted)
                    summary.add_followers(self._inspector.finish())
                    summary.write_files()
                if (source := local_source(entered)) and not joins:
                    summary.add_servers(source.servers())
                    if not source.servers():
                        summary.report_unused("no alias of CACHES is a memcached")
                    for line in summary.lines():
                        self.log(line.titled("memcached-sandbox"))
                return failures + summary.has_failed
        except MainMemcachedRefused:
            raise  # by code of the project: its traceback shows which
        except SandboxError as error:
            raise CommandError(f"{error}.") from error

    def setup_databases(self, **kwargs: Any) -> Any:
        """Starts the servers of the workers, then sets up the databases."""
        # By now it is known how many workers there will be.
        run = self._sandbox_run
        if run and (source := local_source(run)) and self.parallel > 1:
            source.start_worker_sets(run.resolved, self.parallel)
        return super().setup_databases(**kwargs)

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Runs the tests; reads what those of workers have done, whenever some have ended."""
        # Earlier versions of Django have no such method: there the logs are read at the end.
        handle_event = getattr(suite, "handle_event", None)
        if self._inspector is not None and handle_event is not None:
            suite.handle_event = _reading_logs(handle_event)
        return super().run_suite(suite, **kwargs)


class SandboxRunner(SandboxRunnerMixin, DiscoverRunner):
    """Django's own test runner, with memcached servers of its own for each run."""


def _reading_logs(function: Callable[..., Any]) -> Callable[..., Any]:
    from ..server.trace import read_logs

    def wrapper(*args: Any) -> Any:
        read_logs()
        return function(*args)

    return wrapper


def _flag(option: Option) -> str:
    return f"--memcached-{option.word.replace('_', '-')}"


def _destination(option: Option) -> str:
    """Returns the name by which Django passes the option to the runner."""
    return f"memcached_{option.word}"
